"""The published trainings of L2ViT (https://arxiv.org/abs/2501.16182): ImageNet-1k from scratch, ImageNet-22k, and from
there to ImageNet-1k at 224 and 384 pixels.

A batch passes through the model in the parts that were published as update frequency, so that a batch norm sees as
many images as there. Evaluation at 384 squashes the whole image.

Not published is the stochastic depth of Tiny and Small: 0.1 and 0.2 lead up to the 0.3 of Base. Deliberate deviation:
fine-tuning starts with a fresh classifier for the classes of the data, where the published one picks 1000 rows of the
old one by a list that fits its private order of 22k classes alone. `--set model.class_map=rows.txt` picks them here
too: a file with the row of the 22k classifier for each class of the data, in their order, on a line of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanformer.models import Preprocess
from leanformer.recipes.imagenet import imagenet
from leanformer.recipes.registry import recipe
from leanformer.training import AdamW, Cosine, ModelSpec, TrainConfig, WarmUp
from leanformer.training.schedules import Schedule


def _model(name: str, drop_path: float, weights: str | None = None) -> ModelSpec:
    return ModelSpec(name=name, overrides=(("drop_path", drop_path),), weights=weights)


def _rate(start: float, final: float, warm_up: float) -> Schedule:
    return WarmUp(schedule=Cosine(final=final), epochs=warm_up, start=start, inclusive=True)


def _from_scratch(name: str, out: Path, drop_path: float) -> TrainConfig:
    return imagenet(
        _model(name, drop_path),
        out,
        batch_size=4096,
        accumulate=4,
        optimizer=AdamW(lr=4e-3, weight_decay=0.05),
        lr=_rate(0.0, 2.5e-4, 20),
        ema=0.9999,
    )


def _tuned(name: str, out: Path, **changes: Any) -> TrainConfig:
    return imagenet(
        _model(name, 0.2, weights="l2vit_base.in22k"),
        out,
        epochs=30,
        batch_size=1024,
        accumulate=2,
        optimizer=AdamW(lr=4e-5, weight_decay=1e-8),
        lr=_rate(1e-3, 1e-2, 5),
        ema=0.9999,
        **changes,
    )


@recipe
def l2vit_tiny_in1k(out: Path) -> TrainConfig:
    """L2ViT-T from scratch, 300 epochs of 4096 images at 0.004, averaged."""
    return _from_scratch("l2vit_tiny", out, drop_path=0.1)


@recipe
def l2vit_small_in1k(out: Path) -> TrainConfig:
    """L2ViT-S from scratch, 300 epochs of 4096 images at 0.004, averaged."""
    return _from_scratch("l2vit_small", out, drop_path=0.2)


@recipe
def l2vit_base_in1k(out: Path) -> TrainConfig:
    """L2ViT-B from scratch, 300 epochs of 4096 images at 0.004, averaged."""
    return _from_scratch("l2vit_base", out, drop_path=0.3)


@recipe
def l2vit_base_in22k(out: Path) -> TrainConfig:
    """L2ViT-B on ImageNet-22k, 90 epochs of 1024 images at 0.001."""
    return imagenet(
        _model("l2vit_base", 0.2),
        out,
        data="imagenet22k",
        epochs=90,
        batch_size=1024,
        optimizer=AdamW(lr=1e-3, weight_decay=0.05),
        lr=_rate(1e-3, 1e-2, 5),
        evaluate_every=10,
    )


@recipe
def l2vit_base_in22k_in1k(out: Path) -> TrainConfig:
    """L2ViT-B from ImageNet-22k to 1k at 224, 30 epochs of 1024 images at 4e-5, averaged.

    `--weights` names other weights to start from, such as a run of `l2vit_base_in22k`, and `--set model.class_map=FILE`
    the rows of their classifier that the classes start from.
    """
    return _tuned("l2vit_base", out)


@recipe
def l2vit_base_384_in22k_in1k(out: Path) -> TrainConfig:
    """L2ViT-B from ImageNet-22k to 1k at 384, 30 epochs of 1024 images at 4e-5, averaged.

    `--weights` names other weights to start from, such as a run of `l2vit_base_in22k`, and `--set model.class_map=FILE`
    the rows of their classifier that the classes start from.
    """
    return _tuned("l2vit_base_384", out, preprocess=Preprocess(image_size=(384, 384), fit="squash", crop=1.0))
