"""A run changed field by field, as the command line asks."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leanformer.checkpoints import files
from leanformer.config import from_dict, read_value, registered_kinds, replace_at
from leanformer.errors import ConfigError, suggestion
from leanformer.training import ModelSpec, TrainConfig
from leanformer.zoo.resolve import find_config


def read_run(path: Path) -> TrainConfig:
    """The config that a run was started with: its `config.json`, or the directory that holds it.

    Raises:
        CheckpointError: if there is no such file, or it is damaged.
        ConfigError: if it holds no run.
    """
    file = path / "config.json" if path.is_dir() else path
    return from_dict(files.read_json(file), TrainConfig, str(file))


def change(config: TrainConfig, assignment: str) -> TrainConfig:
    """A copy of `config` with one field changed by `path=value`, such as `optimizer.lr=1e-3`.

    A field of the model that its spec has not is one of the backbone: `model.drop_path=0.1`. The value is JSON or a
    Python literal; where that does not fit the field, text; where that does not either, the name of a kind of config
    with all its defaults (`optimizer=sgd`).

    Raises:
        ConfigError: if there is no such field or the value does not fit it.
    """
    path, equals, text = (part.strip() for part in assignment.partition("="))
    if not equals or not path:
        raise ConfigError(f"--set {assignment}: give a field and its value, such as optimizer.lr=1e-3")
    errors: list[ConfigError] = []
    for reading in _readings(text):
        try:
            return _assign(config, path, read_value(reading, path))
        except ConfigError as error:
            errors.append(error)
    is_kind = text in registered_kinds() and "is not of type" not in str(errors[-1])
    hint = "" if is_kind or not text.isidentifier() else suggestion(text, registered_kinds())
    known = "" if "did you mean" in str(errors[0]) else hint
    raise ConfigError(f"--set {assignment}: {errors[-1] if is_kind else errors[0]}{known}") from errors[0]


def with_override(spec: ModelSpec, field: str, value: Any) -> ModelSpec:
    """The spec with a field of its backbone's config replaced."""
    kept = tuple(pair for pair in spec.overrides if pair[0] != field)
    return dataclasses.replace(spec, overrides=(*kept, (field, value)))


def _readings(text: str) -> Iterator[Any]:
    """What a value that was typed may mean, the likeliest first."""
    for parse in (json.loads, ast.literal_eval):
        try:
            yield parse(text)
            break
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    yield text
    if text in registered_kinds():
        yield {"kind": text}


def _assign(config: TrainConfig, path: str, value: Any) -> TrainConfig:
    head, _, field = path.partition(".")
    spec = config.model
    own = {known.name for known in dataclasses.fields(spec)}  # type: ignore[arg-type]
    if head != "model" or not field or spec.name is None or field.partition(".")[0] in own:
        return replace_at(config, path, value)
    replace_at(find_config(spec.name), field, value)  # says what does not fit
    return dataclasses.replace(config, model=with_override(spec, field, value))
