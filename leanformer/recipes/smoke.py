"""Runs of minutes on two cores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from leanformer.models import Preprocess
from leanformer.recipes.registry import default_recipe, recipe
from leanformer.training import AdamW, ModelSpec, TrainConfig


@recipe
def slab_swin_nano_garments(out: Path) -> TrainConfig:
    """The demo: a nano SLAB model (simplified linear attention, progressive RepBN, convolutional stem) on `garments`.

    About 88 % top-1 in under three minutes on two cores. The mean and standard deviation are those of the training
    images.
    """
    model = ModelSpec(name="slab_swin_nano", overrides=(("image_size", 28), ("drop_path", 0.05)))
    grey = (0.286, 0.286, 0.286), (0.353, 0.353, 0.353)
    return replace(
        default_recipe(model, out),
        data="garments",
        preprocess=Preprocess(image_size=(28, 28), crop=1.0, mean=grey[0], std=grey[1]),
        optimizer=AdamW(lr=3e-3, weight_decay=0.05),
        epochs=20,
        batch_size=100,
    )
