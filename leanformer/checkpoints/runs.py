"""A finished model as a folder: `model.json` (what it is) and `model.safetensors` (its weights). Nothing is pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leanformer
from leanformer import edits
from leanformer.checkpoints import files
from leanformer.checkpoints.strict import differences, load_strict
from leanformer.config import from_dict, to_dict
from leanformer.edits import Edit
from leanformer.errors import CheckpointError, LeanformerError, suggestion
from leanformer.models import BackboneConfig, ImageClassifier, Preprocess

RECORD = "model.json"
WEIGHTS = "model.safetensors"
OTHER_WEIGHTS = "model-2.safetensors"
"""The weights of a model that was saved over another; the two names take turns."""

_FORMAT = 1
_FIELDS = ("format", "leanformer", "model", "config", "classes", "preprocess", "edits", "weights", "extra")
_LATER = {"multi_label": False}
"""Fields that records did not always have, with what holds where they lack."""


def save(model: ImageClassifier, directory: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Write `model` so that `load` gives it back; `extra` (metrics, a report) is kept beside it as JSON.

    Raises:
        CheckpointError: if the model is not what its config and its recorded edits build, so that it could not be
            loaded again, or the folder cannot be written.
    """
    directory = Path(directory)
    tensors = model.state_dict()
    _check_rebuilds(model, tensors)
    # The weights go first, beside those of a model that is already here: until the new record is written, the old one
    # and its weights are whole.
    old = _weights_file(directory)
    name = OTHER_WEIGHTS if old == WEIGHTS else WEIGHTS
    digest = files.write_safetensors(directory / name, tensors, {"leanformer": leanformer.__version__})
    record = {
        "format": _FORMAT,
        "leanformer": leanformer.__version__,
        "model": model.name,
        "config": to_dict(model.config),
        "classes": list(model.classes) if model.classes else None,
        "multi_label": model.multi_label,
        "preprocess": to_dict(model.preprocess),
        "edits": [to_dict(change) for change in model.edits],
        "weights": {"file": name, "sha256": digest, "origin": model.origin},
        "extra": extra or {},
    }
    files.write_json(directory / RECORD, record)
    if old is not None:
        (directory / old).unlink(missing_ok=True)


def load(directory: str | Path) -> ImageClassifier:
    """The model that `save` wrote to `directory`, in eval mode.

    Raises:
        CheckpointError: if a file is missing, damaged, of another format, or does not belong to the other.
    """
    directory = Path(directory)
    record = read_record(directory)
    path = directory / RECORD
    weights = directory / _checked(path, record["weights"], "file", str)
    if not weights.is_file():
        raise CheckpointError(f"{weights} is missing; {path} says that the weights are there; {_way_back(directory)}")
    if files.sha256(weights) != _checked(path, record["weights"], "sha256", str):
        raise CheckpointError(
            f"{weights} is not the file that {path} describes (its SHA-256 differs): it is damaged, or a save was "
            f"interrupted; {_way_back(directory)}"
        )
    try:
        model = _rebuild(
            from_dict(record["config"], BackboneConfig),
            [from_dict(item, Edit, f"edits[{index}]") for index, item in enumerate(record["edits"])],
            record["model"],
        )
        model.preprocess = from_dict(record["preprocess"], Preprocess, "preprocess")
        if record["classes"] is not None:
            model.set_classes(tuple(record["classes"]))
    except (LeanformerError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}\n  it was written by leanformer {record['leanformer']}") from error
    model.multi_label = _checked(path, record, "multi_label", bool)
    model.origin = record["weights"].get("origin") or {}
    load_strict(model, files.read_tensors(weights), source=str(weights), same_dtype=True)
    return model.eval()


def is_run(directory: str | Path) -> bool:
    """Whether a folder holds a model that `save` wrote, or a training run, whole or not."""
    directory = Path(directory)
    if (directory / RECORD).is_file() or (directory / "checkpoints" / "latest.json").is_file():
        return True
    config = directory / "config.json"
    if not config.is_file():
        return False
    try:
        record = files.read_json(config)
    except CheckpointError:
        return False
    return isinstance(record, dict) and record.get("kind") == "train"


def weights_path(directory: str | Path) -> Path:
    """The file that holds the weights of the model in `directory`."""
    return Path(directory) / read_record(directory)["weights"]["file"]


def read_record(directory: str | Path) -> dict[str, Any]:
    """What `model.json` says of the model in `directory`, its fields checked.

    Raises:
        CheckpointError: if there is none, or not one that this version reads.
    """
    directory = Path(directory)
    path = directory / RECORD
    if not path.is_file():
        raise CheckpointError(_no_model(directory))
    record = files.read_json(path)
    if not isinstance(record, dict) or "format" not in record:
        raise CheckpointError(f"{path}: not a model record of leanformer; it has no field 'format'")
    if record["format"] != _FORMAT:
        raise CheckpointError(
            f"{path}: format {record['format']!r}, written by leanformer {record.get('leanformer')}; "
            f"this is leanformer {leanformer.__version__}, which reads format {_FORMAT}: install the other version"
        )
    record = _LATER | record
    for name in record:
        if name not in _FIELDS and name not in _LATER:
            raise CheckpointError(f"{path}: unknown field {name!r}{suggestion(name, (*_FIELDS, *_LATER))}")
    missing = [name for name in _FIELDS if name not in record]
    if missing:
        raise CheckpointError(f"{path}: missing {', '.join(missing)}")
    _checked(path, record, "edits", list)
    _checked(path, record, "weights", dict)
    return record


def _weights_file(directory: Path) -> str | None:
    """The weight file of the model in `directory`, if there is a model whose record can be read."""
    try:
        return read_record(directory)["weights"].get("file")
    except CheckpointError:
        return None


def _rebuild(config: BackboneConfig, changes: list[Edit], name: str | None) -> ImageClassifier:
    """The structure with arbitrary weights; the caller's random numbers are left as they are."""
    with torch.random.fork_rng(devices=[]):
        model = ImageClassifier(config, name)
        edits.replay(model, changes)
    return model


def _check_rebuilds(model: ImageClassifier, tensors: dict[str, Tensor]) -> None:
    try:
        blank: nn.Module = _rebuild(model.config, model.edits, model.name)
    except LeanformerError as error:
        raise CheckpointError(f"the model cannot be saved: its record does not build again: {error}") from error
    problems = differences(blank.state_dict(), tensors, same_dtype=True)
    if problems:
        raise CheckpointError(
            "\n".join(
                (
                    "the model cannot be saved: it is not what its config and its edits build",
                    *problems,
                    "  change its structure through leanformer.apply(model, edit), and save it in float32",
                )
            )
        )


def _checked(path: Path, record: dict[str, Any], name: str, expected: type) -> Any:
    if not isinstance(record.get(name), expected):
        raise CheckpointError(f"{path}: {name!r} must be a {expected.__name__}, found {record.get(name)!r}")
    return record[name]


def _way_back(directory: Path) -> str:
    if (directory / "checkpoints").is_dir():
        return f"remove {directory / RECORD} and finish the run again: leanformer train ... --resume"
    return "save the model again"


def _no_model(directory: Path) -> str:
    if directory.is_file():
        return f"{directory} is a file; give the folder of a model, such as {directory.parent}"
    if not directory.is_dir():
        return f"no folder {directory}"
    if (directory / "checkpoints").is_dir():
        return (
            f"{directory} holds a training run that has not finished: no {RECORD} yet; "
            "continue it with leanformer train ... --resume"
        )
    return f"{directory} holds no model: no {RECORD} in it"
