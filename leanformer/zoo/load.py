"""Published weights into our models, strictly: every key accounted for, every parameter filled."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from leanformer.checkpoints.keymap import KeyMap
from leanformer.checkpoints.resize import fit_positions, position_tables
from leanformer.checkpoints.strict import load_strict
from leanformer.errors import CheckpointError
from leanformer.models import ImageClassifier
from leanformer.models.backbone import BackboneConfig
from leanformer.zoo.identify import foreign_keys, looks_like, published_shapes
from leanformer.zoo.transfer import transfer_head
from leanformer.zoo.weights import Layout, Shapes, layout_of

logger = logging.getLogger(__name__)


def load_published(
    config: BackboneConfig,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    name: str | None = None,
    resize: bool = False,
    made_for: BackboneConfig | None = None,
    num_classes: int | None = None,
    class_map: Sequence[int] | None = None,
) -> ImageClassifier:
    """The model of `config` with weights under their published key names.

    The number of classes follows the file unless one is asked for, and so does the form of the norms (bare or
    progressive RepBN). What is changed about the weights is logged, and listed in the model's origin as "changed".

    Args:
        resize: fit learned positions to the size of the images and windows of `config`.
        made_for: the config with the sizes that the weights were made for, where it is known; else maps are taken for
            square.
        num_classes: another than the file's gives a new classifier of zeros.
        class_map: rows of the file's classifier, one for each class of the model.

    Raises:
        CheckpointError: if the keys or shapes are not those of the model, naming the first foreign key and the model
            that the checkpoint looks like.
    """
    check_tensors(tensors, source)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    layout = layout_of(config, shapes)
    config = layout.adapt(config, shapes)
    key_map = layout.map_for(config)
    classifier = shapes.get(key_map.published_name("head.linear.weight")[0], ())
    if len(classifier) == 2:
        config = replace(config, num_classes=classifier[0])
    elif num_classes is not None:
        config = replace(config, num_classes=0)
    _check(config, layout, shapes, source, name, _resizable(config, key_map) if resize else set())
    config, ours, changed = transfer_head(
        config, key_map.to_ours(tensors), source=source, num_classes=num_classes, class_map=class_map
    )
    model = ImageClassifier(config, name)
    if resize:
        fitted = fit_positions(ours, model, None if made_for is None else _without_numbers(made_for))
        count = sum(fitted[key] is not value for key, value in ours.items())
        ours = fitted
        if count:
            height, width = config.image_grid
            changed.append(f"{count} position tables are resized for {height} x {width} images")
    load_strict(model, ours, source=source, key_map_name=key_map.name)
    for line in changed:
        logger.warning("%s: %s", name or source, line)
    if changed:
        model.origin["changed"] = changed
    return model


def check_tensors(tensors: Mapping[str, Tensor], source: str) -> None:
    """Weights are dense tensors with finite numbers, by their names.

    Raises:
        CheckpointError: naming the first that is not.
    """
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{source}: weights are tensors by name, but {key!r} is a {type(value).__name__}; "
                "give model.state_dict()"
            )
        if value.layout != torch.strided or value.is_meta:
            what = "on the meta device, without numbers" if value.is_meta else "sparse"
            raise CheckpointError(f"{source}: {key} is {what}; give dense tensors")
    broken = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{source}: {len(broken)} tensors hold NaN or infinity, first: {broken[0]}; the file is damaged, or its "
            "training had diverged"
        )


def _resizable(config: BackboneConfig, key_map: KeyMap) -> set[str]:
    """The published names of the tables that can be resized."""
    model = _without_numbers(config)
    return {name for table in position_tables(model) for name in key_map.published_name(table)}


def _without_numbers(config: BackboneConfig) -> ImageClassifier:
    with torch.device("meta"):
        return ImageClassifier(config)


def _check(
    config: BackboneConfig, layout: Layout, shapes: Shapes, source: str, name: str | None, resizable: set[str]
) -> None:
    asked = name or f"this {config.kind} config"
    try:
        expected = published_shapes(config, layout)
    except CheckpointError as error:
        raise CheckpointError(
            f"{source}: {asked} has parts that no published file has, so none fits it{_hint(shapes, name)}"
        ) from error
    foreign = foreign_keys(layout.map_for(config), expected, shapes)
    missing = [key for key in expected if key not in shapes]
    unequal = [key for key in expected if key in shapes and shapes[key] != expected[key] and key not in resizable]
    if not foreign and not missing and not unequal:
        return
    lines = [f"{source}: not a checkpoint of {asked}"]
    if foreign:
        lines.append(f"  {len(foreign)} keys are foreign, first: {foreign[0]} {shapes[foreign[0]]}")
    if missing:
        lines.append(f"  {len(missing)} keys are missing, first: {missing[0]} {expected[missing[0]]}")
    if unequal:
        key = unequal[0]
        lines.append(
            f"  {len(unequal)} keys have another shape, first: {key} is {shapes[key]}, expected {expected[key]}"
        )
    raise CheckpointError("\n".join(lines) + _hint(shapes, name))


def _hint(shapes: Shapes, name: str | None) -> str:
    guess = looks_like(shapes)
    return f"\n  this looks like a checkpoint of {guess}; try that name" if guess not in (None, name) else ""
