"""What most users need: build, load, save, edit and ask a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leanformer import zoo
from leanformer.checkpoints import runs
from leanformer.edits import apply
from leanformer.errors import CheckpointError, ConfigError
from leanformer.models import BackboneConfig, ImageClassifier, list_models
from leanformer.zoo import resolve

if TYPE_CHECKING:
    from PIL import Image

    from leanformer.export import ExportedClassifier

__all__ = ["apply", "build", "list_models", "load", "predict", "save", "zoo"]

_SIZES = {"image_size", "window_size"}
"""Fields of configs whose change resizes learned positions."""


def build(model: str | BackboneConfig, **overrides: Any) -> ImageClassifier:
    """A randomly initialised model.

    Args:
        model: a registered name or a config.
        overrides: fields of the config to change, such as `image_size=64, num_classes=10`.

    Raises:
        ConfigError: for an unknown name, field or a value that the backbone cannot take.
    """
    if isinstance(model, BackboneConfig):
        return ImageClassifier(resolve.change(model, overrides))
    return ImageClassifier(resolve.change(resolve.find_config(model), overrides), model)


def load(
    model: str | Path | BackboneConfig,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    *,
    ema: bool = False,
    class_map: str | Path | Sequence[int] | None = None,
    **overrides: Any,
) -> ImageClassifier:
    """A trained model, in eval mode: a run directory, an exported file, or a name with published weights.

    Published weights that have a direct link are fetched once, into the cache; for others the error says what to do.
    With another `image_size` or `window_size` learned positions are resized; with other `num_classes` than the file's
    the classifier is a new one of zeros. Both are logged.

    Args:
        model: a directory that `save` or `leanformer train` wrote, an exported file (`.onnx`, `.xml`, `.pte`), which
            gives an `ExportedClassifier`: it predicts and evaluates like a model, and cannot be changed; a registered
            name (`flatten_swin_tiny`, `flatten_swin_tiny.in1k`), a timm name
            (`timm/swin_tiny_patch4_window7_224.ms_in1k`) or a folder with such a model from the Hugging Face Hub, or a
            config.
        weights: a published file, or its tensors under their published key names. For names and configs alone.
        ema: take the averaged copy of the weights from a file that has one.
        class_map: for each class the row of the file's classifier that becomes its own: indices, or a file with one on
            each line.
        overrides: fields of the config to change.

    Raises:
        ConfigError: for an unknown name or field.
        CheckpointError: for files that cannot be read or fetched, or do not fit, key by key.
        ExportError: for an exported file that cannot be opened.
    """
    if isinstance(model, BackboneConfig):
        config = resolve.change(model, overrides)
        return _fill(config, resolve.find_pretrained(None, weights, ema=ema), class_map, overrides)
    asked = [*overrides, *(name for name, given in (("ema", ema), ("class_map", class_map is not None)) if given)]
    kind = resolve.kind_of(model, with_weights=weights is not None)
    if kind == "exported":
        return _open_exported(model, weights, asked)  # type: ignore[return-value]
    if weights is not None and kind in ("folder", "hub_folder"):
        raise ConfigError(f"{model} is a run directory with weights of its own; give a model's name with others")
    if kind == "folder":
        if asked:
            raise ConfigError(f"{model} is a finished model; {', '.join(asked)} cannot be changed while loading it")
        return runs.load(model)
    if kind == "hub_folder":
        config, found = resolve.open_hub_folder(Path(model), ema=ema)
        return _fill(resolve.change(config, overrides), found, class_map, overrides)
    # A wrong field is found before a file is fetched.
    config = resolve.change(resolve.find_config(str(model)), overrides)
    return _fill(config, resolve.find_pretrained(str(model), weights, ema=ema), class_map, overrides)


def _fill(
    config: BackboneConfig,
    found: resolve.Pretrained,
    class_map: str | Path | Sequence[int] | None,
    overrides: Mapping[str, Any],
) -> ImageClassifier:
    """The model of a config that `overrides` changed, with published weights."""
    model = resolve.load_pretrained(
        found,
        config,
        resize=bool(_SIZES & set(overrides)),
        num_classes=overrides.get("num_classes"),
        class_map=class_map,
    )
    return model.eval()


def save(model: ImageClassifier, directory: str | Path) -> None:
    """Write a model with its config, edits, classes and preprocessing, to be read by `load`. Nothing is pickled."""
    runs.save(model, Path(directory))


def predict(
    model: ImageClassifier | ExportedClassifier | str | Path,
    image: str | Path | Image.Image,
    top: int | None = None,
    threshold: float | None = None,
) -> list[tuple[str, float]]:
    """The most probable classes of an image with their probabilities, best first.

    A model without class names calls them by their number. The model is put into eval mode.

    Args:
        top: classes at most. None: 5, and any number of a model for images of several classes, whose probabilities
            do not add up to 1.
        threshold: least probability of a class. None: 0.5 of a model for images of several classes, else 0.

    Raises:
        DataError: if the image cannot be read.
        CheckpointError: if the model's outputs are not numbers.
    """
    from leanformer.data.preprocess import open_image, prepare
    from leanformer.tasks.multi_label import THRESHOLD

    if isinstance(model, (str, Path)):
        model = load(model)
    if isinstance(model, ImageClassifier):
        model.check_classifies()
    picture = open_image(image) if isinstance(image, (str, Path)) else image
    batch = prepare(picture, model.preprocess).unsqueeze(0)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        scores = model.eval()(batch.to(device)).float()[0]
    if model.multi_label:
        probabilities, top, least = scores.sigmoid(), top or scores.numel(), THRESHOLD
    else:
        probabilities, top, least = scores.softmax(dim=0), top or 5, 0.0
    if probabilities.isnan().any():
        odd = int(scores.isfinite().logical_not().sum())
        raise CheckpointError(
            f"{odd} of the model's {scores.numel()} outputs are not numbers (nan or inf): its weights are damaged, or "
            "its training diverged; take other weights, or train again with a lower learning rate"
        )
    best = probabilities.topk(min(top, scores.numel()))
    names = model.classes or tuple(str(index) for index in range(scores.numel()))
    found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [(names[index], p) for p, index in found if p >= (least if threshold is None else threshold)]


def _open_exported(model: str | Path, weights: object, asked: Sequence[str]) -> ExportedClassifier:
    from leanformer.export import open_exported

    if weights is not None or asked:
        named = ", ".join(asked) or "--weights"
        raise ConfigError(f"{model} is an exported file with weights and a shape of its own; leave out {named}")
    return open_exported(model)
