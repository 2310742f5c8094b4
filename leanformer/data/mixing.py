"""Mixup and CutMix: images and labels of a batch blended with those of its mirror image, a pure function of (seed,
step)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from leanformer.config import register_config
from leanformer.data.randomness import seeded
from leanformer.errors import ConfigError


@register_config("mixing")
class Mixing:
    """Mixup (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899), as timm mixes. The batch
    size must be even."""

    mixup: float = 0.8
    """Both parameters of the beta distribution of mixup's share; 0 for none."""
    cutmix: float = 1.0
    """The same of the area that CutMix pastes; 0 for none."""
    probability: float = 1.0
    """Of mixing at all."""
    switch: float = 0.5
    """Probability of CutMix where both are on."""
    mode: Literal["batch", "pair", "elem"] = "batch"
    """What draws its own share: the batch, each pair of images that are mixed with each other, or each image."""

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0 or not self.mixup + self.cutmix:
            raise ConfigError(f"mixing needs mixup or cutmix above 0, got {self.mixup} and {self.cutmix}")
        for name in ("probability", "switch"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.mode not in ("batch", "pair", "elem"):
            raise ConfigError(f"mode must be 'batch', 'pair' or 'elem', got {self.mode!r}")


def mix(
    images: Tensor,
    labels: Tensor,
    mixing: Mixing,
    *,
    num_classes: int,
    smoothing: float,
    seed: int,
    step: int,
    rank: int = 0,
) -> tuple[Tensor, Tensor]:
    """Mixed copies of the images (B, 3, H, W), and for int64 labels (B,), or targets (B, num_classes), the smoothed
    targets (B, num_classes) of the mixed images.

    Ranks whose shares hold both images of each pair mix a batch as one process would, if it draws one share for all;
    shares of pairs or images are drawn by each rank for itself.

    Raises:
        ConfigError: if the number of images is odd, as where all of a small data set are one batch.
    """
    check_pairs(len(images))
    from timm.data.mixup import Mixup

    mixup = Mixup(
        mixup_alpha=mixing.mixup,
        cutmix_alpha=mixing.cutmix,
        prob=mixing.probability,
        switch_prob=mixing.switch,
        mode=mixing.mode,
        label_smoothing=smoothing,
        num_classes=num_classes,
        multi_label=labels.ndim == 2,
    )
    with seeded("mixing", seed, step, copy=0 if mixing.mode == "batch" else rank):
        return mixup(images.clone(), labels)


def check_pairs(count: int, world: int = 1) -> None:
    """Refuse a number of images, each rank's share of a batch, that cannot be mixed in pairs.

    Raises:
        ConfigError: if it is odd.
    """
    if count % 2 and world == 1:
        raise ConfigError(f"{count} images cannot be mixed in pairs; take an even batch_size, such as {count - 1}")
    if count % 2:
        raise ConfigError(
            f"a batch of {count * world} images cannot be mixed in pairs by {world} ranks; take a batch_size that is a "
            f"multiple of {2 * world}"
        )
