"""What several commands do: open a model, evaluate it, print JSON."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from leanformer.data import DataOptions
    from leanformer.export import ExportedClassifier
    from leanformer.models import ImageClassifier
    from leanformer.tasks import Metrics


def optional(metavar: str, otherwise: str) -> object:
    """How the help shows an option that may be left out: what it takes, and what holds without it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="" if otherwise == "none" else f"(default: {otherwise})")


def quoted(path: Path | str) -> str:
    """A path as it is to be typed into a shell."""
    return shlex.quote(str(path))


def open_model(model: str, weights: Path | None = None) -> ImageClassifier | ExportedClassifier:
    """A run directory, an exported file, or a registered name with a published weight file."""
    from leanformer import api

    return api.load(model, weights)


def open_trainable(model: str, weights: Path | None = None) -> ImageClassifier:
    """A run directory, or a registered name with a published weight file."""
    from leanformer import api
    from leanformer.errors import ConfigError
    from leanformer.zoo.resolve import kind_of

    if kind_of(model) == "exported":
        raise ConfigError(
            f"{model} is an exported file, which can only be run and measured; give the run directory it came from"
        )
    return api.load(model, weights)


def evaluate_on(model: ImageClassifier | ExportedClassifier, data: str, batch_size: int, workers: int = 0) -> Metrics:
    """The model's figures on the validation images, of one class each, of a data set whose classes the model knows."""
    from leanformer.data import open_data
    from leanformer.errors import DataError
    from leanformer.tasks import Metrics, evaluate_images

    metrics = evaluate_images(model, open_data(data, "val"), data, batch_size, workers)
    if not isinstance(metrics, Metrics):
        raise DataError(f"{data} has images of several classes, which have no accuracy; use leanformer evaluate")
    return metrics


def options_of(name: str, model: ImageClassifier | ExportedClassifier, data: str) -> DataOptions:
    """How `data` is read for the model of that name: as its run did, if it is one; of other data, whether images have
    several classes."""
    from leanformer.checkpoints import files
    from leanformer.config import from_dict
    from leanformer.data import DataOptions
    from leanformer.training import TrainConfig

    path = Path(name) / "config.json"
    if path.is_file():
        config = from_dict(files.read_json(path), TrainConfig)
        if _place(data) == _place(config.data):
            return config.data_options
    return DataOptions(multi_label=model.multi_label)


def _place(data: str) -> Path:
    """Where data lies, however it is written; names of data sets differ too."""
    return Path(data).expanduser().resolve()


def check_free(out: Path, argument: str = "--out") -> None:
    """Refuse a directory, given as `argument`, that holds a model or a run."""
    from leanformer.errors import ConfigError

    if any((out / name).exists() for name in ("model.json", "config.json")):
        raise ConfigError(f"{out} already holds a run; choose another {argument}")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give a directory for the model")


def print_json(value: Any) -> None:
    """Write a value as JSON to standard output, floats unrounded."""
    json.dump(value, sys.stdout, indent=2)
    print()


def report_skipped(skipped: tuple[tuple[str, str], ...]) -> None:
    """Say which images could not be read."""
    for _, error in skipped:
        print(f"skipped: {error}", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} images could not be read and are left out of the figures", file=sys.stderr)
