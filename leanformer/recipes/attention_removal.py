"""The published trainings of attention removal ("MLP Can Be A Good Transformer Learner",
https://arxiv.org/abs/2404.05657), all on ImageNet-1k.

A trained DeiT goes on for 400 epochs. In 299 of them the attention of the chosen blocks fades out, a little at each
epoch, and gives way to the identity; then it is gone, and the rest learns to do without. At the end it is removed.

The rate changes once in an epoch, set with the number of the epoch that has just ended, so that epochs 0 and 1 both run
at 1e-6. The rate and the augmentation are those of a training from scratch.

Deliberate deviations: the end of the fading is tied to the length of the run (299 of 400 epochs), where the published
code holds the number 299, and never gets there in a shorter run. The result is the finished model, without the
attention; the published trainer picks the best epoch on the validation images, while attention is left too. The
averaged copy (decay 0.99996) that the published trainer keeps and never evaluates is left out; `--ema 0.99996` makes it
the result. Stochastic depth is the same in all blocks of DeiT-B and grows with depth in the others, as published.
"""

from __future__ import annotations

from pathlib import Path

from leanformer.data.sampling import Sampling
from leanformer.edits import RemoveAttention
from leanformer.recipes.dilution import FADING, diluted
from leanformer.recipes.imagenet import imagenet, scaled
from leanformer.recipes.registry import recipe
from leanformer.training import Cosine, Lag, ModelSpec, PerEpoch, Scheduled, TrainConfig, WarmUp

RATE = PerEpoch(schedule=Lag(schedule=WarmUp(schedule=Cosine(final=5e-3), epochs=5, start=5e-4, shift=False)))
"""From 1e-6 to 2e-3 in five epochs, then down to 1e-5, an epoch late."""


def _published(size: str, blocks: tuple[int, ...], out: Path) -> TrainConfig:
    model = f"deit_{size}"
    overrides = (("drop_path_grows", False),) if size == "base" else ()
    config = imagenet(
        ModelSpec(name=model, overrides=overrides, weights=f"{model}.in1k"),
        out,
        epochs=400,
        batch_size=2048,
        optimizer=scaled(5e-4, 2048),
        lr=RATE,
        sampling=Sampling(repeat=3),
        schedules=(Scheduled(what="attention_share", schedule=PerEpoch(schedule=FADING)),),
        finish=(RemoveAttention(blocks=blocks),),
    )
    return diluted(config, blocks)


@recipe
def deit_base_removed_01346_in1k(out: Path) -> TrainConfig:
    """DeiT-B loses the attention of blocks 0, 1, 3, 4 and 6 in 299 of 400 epochs of 2048 images at 0.002."""
    return _published("base", (0, 1, 3, 4, 6), out)


@recipe
def deit_base_removed_013469_in1k(out: Path) -> TrainConfig:
    """DeiT-B loses the attention of blocks 0, 1, 3, 4, 6 and 9 in 299 of 400 epochs of 2048 images at 0.002."""
    return _published("base", (0, 1, 3, 4, 6, 9), out)


@recipe
def deit_small_removed_024_in1k(out: Path) -> TrainConfig:
    """DeiT-S loses the attention of blocks 0, 2 and 4 in 299 of 400 epochs of 2048 images at 0.002."""
    return _published("small", (0, 2, 4), out)


@recipe
def deit_small_removed_0246_in1k(out: Path) -> TrainConfig:
    """DeiT-S loses the attention of blocks 0, 2, 4 and 6 in 299 of 400 epochs of 2048 images at 0.002."""
    return _published("small", (0, 2, 4, 6), out)


@recipe
def deit_tiny_removed_024_in1k(out: Path) -> TrainConfig:
    """DeiT-T loses the attention of blocks 0, 2 and 4 in 299 of 400 epochs of 2048 images at 0.002."""
    return _published("tiny", (0, 2, 4), out)


@recipe
def deit_tiny_removed_0246_in1k(out: Path) -> TrainConfig:
    """DeiT-T loses the attention of blocks 0, 2, 4 and 6 in 299 of 400 epochs of 2048 images at 0.002."""
    return _published("tiny", (0, 2, 4, 6), out)
