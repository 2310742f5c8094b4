"""What most users need: build, load, save, edit and ask a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leanformer import zoo
from leanformer.checkpoints import files, runs
from leanformer.config import replace_at
from leanformer.edits import apply
from leanformer.errors import CheckpointError, ConfigError
from leanformer.models import BackboneConfig, ImageClassifier, find, list_models
from leanformer.zoo.load import load_published
from leanformer.zoo.weights import published

if TYPE_CHECKING:
    from PIL import Image

    from leanformer.export import OnnxClassifier

__all__ = ["apply", "build", "list_models", "load", "predict", "save", "zoo"]


def build(model: str | BackboneConfig, **overrides: Any) -> ImageClassifier:
    """A randomly initialised model.

    Args:
        model: a registered name or a config.
        overrides: fields of the config to change, such as `image_size=64, num_classes=10`.

    Raises:
        ConfigError: for an unknown name, field or a value that the backbone cannot take.
    """
    name, config = _resolve(model, overrides)
    return ImageClassifier(config, name)


def load(
    model: str | Path | BackboneConfig,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    *,
    ema: bool = False,
    **overrides: Any,
) -> ImageClassifier:
    """A trained model, in eval mode: a run directory, an exported file, or a registered name with published weights.

    Args:
        model: a directory that `save` or `leanformer train` wrote, an exported `.onnx` file (which gives an
            `OnnxClassifier`: it predicts and evaluates like a model, and cannot be changed), a registered name
            (`flatten_swin_tiny`, `flatten_swin_tiny.in1k`), or a config.
        weights: a published file, or its tensors under their published key names. For names and configs alone.
        ema: take the averaged copy of the weights from a file that has one.
        overrides: fields of the config to change.

    Raises:
        ConfigError: for an unknown name or field.
        CheckpointError: for files that cannot be read or do not fit, key by key.
        ExportError: for an exported file that cannot be opened.
    """
    if isinstance(model, (str, Path)) and Path(model).suffix == ".onnx":
        return _open_onnx(model, weights, overrides)  # type: ignore[return-value]
    if isinstance(model, (str, Path)) and _is_directory(model) and (weights is None or not _is_name(str(model))):
        if overrides:
            raise ConfigError(f"{model} is a finished model; {', '.join(overrides)} cannot be changed while loading it")
        if weights is not None:
            raise ConfigError(f"{model} is a run directory with weights of its own; give a model's name with others")
        return runs.load(model)
    name, config = _resolve(model, overrides)
    record = published(name) if name else None
    if weights is None:
        raise CheckpointError(_how_to_get(str(model), record))
    if isinstance(weights, Mapping):
        tensors, source = dict(weights), f"the tensors given for {name or config.kind}"
    else:
        tensors, source = files.read_weights(weights, ema=ema), str(weights)
    loaded = load_published(config, tensors, source=source, name=name)
    if record is not None:
        loaded.preprocess = replace(record.preprocess, image_size=loaded.config.image_grid)
    loaded.origin = {"from": source, "license": record.license if record else None}
    return loaded.eval()


def save(model: ImageClassifier, directory: str | Path) -> None:
    """Write a model with its config, edits, classes and preprocessing, to be read by `load`. Nothing is pickled."""
    runs.save(model, Path(directory))


def predict(
    model: ImageClassifier | OnnxClassifier | str | Path, image: str | Path | Image.Image, top: int = 5
) -> list[tuple[str, float]]:
    """The `top` most probable classes of an image with their probabilities, best first.

    A model without class names calls them by their number. The model is put into eval mode.

    Raises:
        DataError: if the image cannot be read.
    """
    from leanformer.data.preprocess import open_image, prepare

    if isinstance(model, (str, Path)):
        model = load(model)
    picture = open_image(image) if isinstance(image, (str, Path)) else image
    batch = prepare(picture, model.preprocess).unsqueeze(0)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        probabilities = model.eval()(batch.to(device)).float().softmax(dim=1)[0]
    best = probabilities.topk(min(top, probabilities.numel()))
    names = model.classes or tuple(str(index) for index in range(probabilities.numel()))
    return [(names[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def _open_onnx(model: str | Path, weights: object, overrides: Mapping[str, Any]) -> OnnxClassifier:
    from leanformer.export import OnnxClassifier

    if weights is not None or overrides:
        named = ", ".join(overrides) or "--weights"
        raise ConfigError(f"{model} is an exported file with weights and a shape of its own; leave out {named}")
    return OnnxClassifier(model)


def _resolve(model: str | Path | BackboneConfig, overrides: Mapping[str, Any]) -> tuple[str | None, BackboneConfig]:
    if isinstance(model, BackboneConfig):
        name, config = None, model
    else:
        name, config = str(model), find(str(model))
    for field, value in overrides.items():
        config = replace_at(config, field, value)
    return name, config


def _is_directory(model: str | Path) -> bool:
    return isinstance(model, Path) or Path(model).is_dir() or "/" in model


def _is_name(model: str) -> bool:
    return model.partition(".")[0] in list_models()


def _how_to_get(name: str, record: zoo.weights.Weights | None) -> str:
    if record is None:
        return f"{name} has no published weights; give a file (weights= or --weights), or train it"
    return (
        f"the weights of {name} are not fetched automatically: download {record.file or 'them'} from {record.page} "
        "and give the file (weights= or --weights)"
    )
