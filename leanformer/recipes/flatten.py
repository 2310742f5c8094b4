"""The published trainings of FLatten (https://arxiv.org/abs/2308.00442), all on ImageNet-1k.

The values are those of the published configs, which the paper's text does not always repeat: PVT and PVTv2 warm up for
5 epochs (20 in the paper), CSwin-B decays by 0.1, and CSwin-B at 384 is tuned for 20 epochs and 10 at the lowest rate.
Images are squashed to a square before the centre crop, for evaluation as published.

Deliberate deviations: the result of the CSwins is the averaged copy, of which the published trainer kept both; integer
buffers are copied into it and not averaged.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from leanformer.models import Preprocess
from leanformer.recipes.imagenet import imagenet, one_step_late, scaled
from leanformer.recipes.registry import recipe
from leanformer.training import ModelSpec, TrainConfig


def _flatten(model: str, out: Path, batch_size: int, **changes: Any) -> TrainConfig:
    changes.setdefault("optimizer", scaled(5e-4, batch_size))
    return imagenet(model, out, batch_size=batch_size, preprocess=Preprocess(fit="squash"), **changes)


def _pvt(model: str, out: Path, batch_size: int = 1024, clip: float | None = None) -> TrainConfig:
    return _flatten(model, out, batch_size, epochs=310, lr=one_step_late(2e-3, 2e-2, 5, cool_down=10), clip=clip)


def _swin(model: str, out: Path, batch_size: int = 1024) -> TrainConfig:
    return _flatten(model, out, batch_size, lr=one_step_late(1e-3, 1e-2, 20), clip=5.0)


def _cswin(model: str, out: Path, batch_size: int, ema: float = 0.99984) -> TrainConfig:
    return _flatten(model, out, batch_size, epochs=310, lr=one_step_late(2e-3, 2e-2, 20, cool_down=10), ema=ema)


@recipe
def flatten_pvt_tiny_in1k(out: Path) -> TrainConfig:
    """FLatten-PVT-T, 300 + 10 epochs of 1024 images at 0.001."""
    return _pvt("flatten_pvt_tiny", out)


@recipe
def flatten_pvt_small_in1k(out: Path) -> TrainConfig:
    """FLatten-PVT-S, 300 + 10 epochs of 512 images at 0.0005."""
    return _pvt("flatten_pvt_small", out, batch_size=512)


@recipe
def flatten_pvt_medium_in1k(out: Path) -> TrainConfig:
    """FLatten-PVT-M, 300 + 10 epochs of 512 images at 0.0005, clipped at 1."""
    return _pvt("flatten_pvt_medium", out, batch_size=512, clip=1.0)


@recipe
def flatten_pvt_base_in1k(out: Path) -> TrainConfig:
    """FLatten-PVT-B, 300 + 10 epochs of 256 images at 0.00025, clipped at 1."""
    return _pvt("flatten_pvt_base", out, batch_size=256, clip=1.0)


@recipe
def flatten_pvt_v2_b0_in1k(out: Path) -> TrainConfig:
    """FLatten-PVTv2-B0, 300 + 10 epochs of 1024 images at 0.001."""
    return _pvt("flatten_pvt_v2_b0", out)


@recipe
def flatten_pvt_v2_b1_in1k(out: Path) -> TrainConfig:
    """FLatten-PVTv2-B1, 300 + 10 epochs of 1024 images at 0.001."""
    return _pvt("flatten_pvt_v2_b1", out)


@recipe
def flatten_pvt_v2_b2_in1k(out: Path) -> TrainConfig:
    """FLatten-PVTv2-B2, 300 + 10 epochs of 1024 images at 0.001."""
    return _pvt("flatten_pvt_v2_b2", out)


@recipe
def flatten_pvt_v2_b3_in1k(out: Path) -> TrainConfig:
    """FLatten-PVTv2-B3, 300 + 10 epochs of 1024 images at 0.001, clipped at 1."""
    return _pvt("flatten_pvt_v2_b3", out, clip=1.0)


@recipe
def flatten_pvt_v2_b4_in1k(out: Path) -> TrainConfig:
    """FLatten-PVTv2-B4, 300 + 10 epochs of 512 images at 0.0005, clipped at 1."""
    return _pvt("flatten_pvt_v2_b4", out, batch_size=512, clip=1.0)


@recipe
def flatten_swin_tiny_in1k(out: Path) -> TrainConfig:
    """FLatten-Swin-T, 300 epochs of 1024 images at 0.001, clipped at 5."""
    return _swin("flatten_swin_tiny", out)


@recipe
def flatten_swin_small_in1k(out: Path) -> TrainConfig:
    """FLatten-Swin-S, 300 epochs of 1024 images at 0.001, clipped at 5."""
    return _swin("flatten_swin_small", out)


@recipe
def flatten_swin_base_in1k(out: Path) -> TrainConfig:
    """FLatten-Swin-B, 300 epochs of 512 images at 0.0005, clipped at 5."""
    return _swin("flatten_swin_base", out, batch_size=512)


@recipe
def flatten_swin_base_384_in1k(out: Path) -> TrainConfig:
    """FLatten-Swin-B at 384 from its weights at 224, 30 epochs of 256 images at 1e-5.

    `--weights` names other weights to start from, such as a run of `flatten_swin_base_in1k`.
    """
    return replace(
        _swin("flatten_swin_base_384", out, batch_size=256),
        model=ModelSpec(name="flatten_swin_base_384", weights="flatten_swin_base.in1k"),
        preprocess=Preprocess(image_size=(384, 384), fit="squash", crop=1.0),
        optimizer=scaled(2e-5, 256, weight_decay=1e-8),
        lr=one_step_late(1e-3, 1e-2, 5),
        epochs=30,
    )


@recipe
def flatten_cswin_tiny_in1k(out: Path) -> TrainConfig:
    """FLatten-CSwin-T, 300 + 10 epochs of 2048 images at 0.002, averaged."""
    return _cswin("flatten_cswin_tiny", out, batch_size=2048)


@recipe
def flatten_cswin_small_in1k(out: Path) -> TrainConfig:
    """FLatten-CSwin-S, 300 + 10 epochs of 1024 images at 0.001, averaged."""
    return _cswin("flatten_cswin_small", out, batch_size=1024)


@recipe
def flatten_cswin_base_in1k(out: Path) -> TrainConfig:
    """FLatten-CSwin-B, 300 + 10 epochs of 512 images at 0.0005, averaged, weight decay 0.1."""
    base = _cswin("flatten_cswin_base", out, batch_size=512, ema=0.99982)
    return replace(base, optimizer=scaled(5e-4, 512, weight_decay=0.1))


@recipe
def flatten_cswin_base_384_in1k(out: Path) -> TrainConfig:
    """FLatten-CSwin-B at 384 from its weights at 224, 20 + 10 epochs of 256 images at 2.5e-6, averaged.

    No weights at 224 were published: it starts from the run of `flatten_cswin_base_in1k` in `runs/`, unless `--weights`
    names another.
    """
    return replace(
        _cswin("flatten_cswin_base_384", out, batch_size=256, ema=0.99982),
        model=ModelSpec(name="flatten_cswin_base_384", weights="runs/flatten_cswin_base_in1k"),
        preprocess=Preprocess(image_size=(384, 384), fit="squash"),
        optimizer=scaled(5e-6, 256, weight_decay=1e-8),
        lr=one_step_late(1.0, 0.1, 0, cool_down=10),
        epochs=30,
    )
