"""The published trainings of SLAB (https://arxiv.org/abs/2405.11582), all on ImageNet-1k.

Its progressive norms give LayerNorm up over a number of steps that was published for each model; here it is a fraction
of the training, the same one, so that another batch size or length keeps the proportion. After the last epoch come ten
passes over the augmented images in which the statistics of the batch norms alone move.

Deliberate deviations: the published DeiT-T and Swin-T with PRepBN build bare RepBN, without a progress; theirs is that
of their siblings, 300 000 steps. The published norms are changed once in each forward pass, here once in each step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanformer.recipes.imagenet import NUM_IMAGES, imagenet, one_step_late, scaled
from leanformer.recipes.registry import recipe
from leanformer.training import Linear, RecalibrateBatchNorm, Scheduled, TrainConfig

LAST_PASSES = RecalibrateBatchNorm(batches=NUM_IMAGES, passes=10, momentum=0.1, augmented=True)
"""Ten times all training images through the finished model, for the statistics alone."""


def _slab(model: str, out: Path, batch_size: int, steps: int, epochs: int = 300, **changes: Any) -> TrainConfig:
    until = steps / (epochs * (NUM_IMAGES // batch_size))
    progress = Scheduled(what="norm_progress", schedule=Linear(start=1.0, end=0.0, until=until))
    return imagenet(
        model,
        out,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=scaled(5e-4, batch_size),
        schedules=(progress,),
        finish=(LAST_PASSES,),
        **changes,
    )


def _deit_or_swin(model: str, out: Path, steps: int, batch_size: int = 1024) -> TrainConfig:
    return _slab(model, out, batch_size, steps, lr=one_step_late(1e-3, 1e-2, 20), clip=5.0)


def _pvt(model: str, out: Path, batch_size: int = 1024, clip: float | None = None) -> TrainConfig:
    rate = one_step_late(2e-3, 2e-2, 5, cool_down=10)
    return _slab(model, out, batch_size, steps=300_000, epochs=310, lr=rate, clip=clip)


def _cswin(model: str, out: Path, batch_size: int) -> TrainConfig:
    rate = one_step_late(2e-3, 2e-2, 20, cool_down=10)
    return _slab(model, out, batch_size, steps=120_000, epochs=310, lr=rate)


@recipe
def deit_tiny_prepbn_in1k(out: Path) -> TrainConfig:
    """DeiT-T with PRepBN, 300 epochs of 1024 images at 0.001, LayerNorm gone after 300 000 steps."""
    return _deit_or_swin("deit_tiny_prepbn", out, steps=300_000)


@recipe
def deit_small_prepbn_in1k(out: Path) -> TrainConfig:
    """DeiT-S with PRepBN, 300 epochs of 1024 images at 0.001, LayerNorm gone after 300 000 steps."""
    return _deit_or_swin("deit_small_prepbn", out, steps=300_000)


@recipe
def slab_deit_tiny_in1k(out: Path) -> TrainConfig:
    """SLAB-DeiT-T, 300 epochs of 1024 images at 0.001, LayerNorm gone after 60 000 steps."""
    return _deit_or_swin("slab_deit_tiny", out, steps=60_000)


@recipe
def slab_deit_small_in1k(out: Path) -> TrainConfig:
    """SLAB-DeiT-S, 300 epochs of 1024 images at 0.001, LayerNorm gone after 60 000 steps."""
    return _deit_or_swin("slab_deit_small", out, steps=60_000)


@recipe
def swin_tiny_prepbn_in1k(out: Path) -> TrainConfig:
    """Swin-T with PRepBN, 300 epochs of 1024 images at 0.001, LayerNorm gone after 300 000 steps."""
    return _deit_or_swin("swin_tiny_prepbn", out, steps=300_000)


@recipe
def slab_swin_tiny_in1k(out: Path) -> TrainConfig:
    """SLAB-Swin-T, 300 epochs of 1024 images at 0.001, LayerNorm gone after 60 000 steps."""
    return _deit_or_swin("slab_swin_tiny", out, steps=60_000)


@recipe
def slab_swin_small_in1k(out: Path) -> TrainConfig:
    """SLAB-Swin-S, 300 epochs of 1024 images at 0.001, LayerNorm gone after 60 000 steps."""
    return _deit_or_swin("slab_swin_small", out, steps=60_000)


@recipe
def slab_swin_base_in1k(out: Path) -> TrainConfig:
    """SLAB-Swin-B, 300 epochs of 512 images at 0.0005, LayerNorm gone after 60 000 steps."""
    return _deit_or_swin("slab_swin_base", out, steps=60_000, batch_size=512)


@recipe
def pvt_tiny_prepbn_in1k(out: Path) -> TrainConfig:
    """PVT-T with PRepBN, 300 + 10 epochs of 1024 images at 0.001, LayerNorm gone after 300 000 steps."""
    return _pvt("pvt_tiny_prepbn", out)


@recipe
def pvt_small_prepbn_in1k(out: Path) -> TrainConfig:
    """PVT-S with PRepBN, 300 + 10 epochs of 512 images at 0.0005, LayerNorm gone after 300 000 steps."""
    return _pvt("pvt_small_prepbn", out, batch_size=512)


@recipe
def pvt_medium_prepbn_in1k(out: Path) -> TrainConfig:
    """PVT-M with PRepBN, 300 + 10 epochs of 1024 images at 0.001, LayerNorm gone after 300 000 steps."""
    return _pvt("pvt_medium_prepbn", out, clip=1.0)


@recipe
def slab_pvt_tiny_in1k(out: Path) -> TrainConfig:
    """SLAB-PVT-T, 300 + 10 epochs of 1024 images at 0.001, LayerNorm gone after 300 000 steps."""
    return _pvt("slab_pvt_tiny", out)


@recipe
def slab_pvt_small_in1k(out: Path) -> TrainConfig:
    """SLAB-PVT-S, 300 + 10 epochs of 512 images at 0.0005, LayerNorm gone after 300 000 steps."""
    return _pvt("slab_pvt_small", out, batch_size=512)


@recipe
def slab_pvt_medium_in1k(out: Path) -> TrainConfig:
    """SLAB-PVT-M, 300 + 10 epochs of 512 images at 0.0005, LayerNorm gone after 300 000 steps."""
    return _pvt("slab_pvt_medium", out, batch_size=512, clip=1.0)


@recipe
def slab_cswin_tiny_in1k(out: Path) -> TrainConfig:
    """SLAB-CSwin-T, 300 + 10 epochs of 2048 images at 0.002, LayerNorm gone after 120 000 steps."""
    return _cswin("slab_cswin_tiny", out, batch_size=2048)


@recipe
def slab_cswin_small_in1k(out: Path) -> TrainConfig:
    """SLAB-CSwin-S, 300 + 10 epochs of 1024 images at 0.001, LayerNorm gone after 120 000 steps."""
    return _cswin("slab_cswin_small", out, batch_size=1024)
