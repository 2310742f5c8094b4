"""Training augmentation, a pure function of (seed, epoch, image, copy): timm's transforms for photographs, and a fast
one for small images in an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from leanformer.config import register_config
from leanformer.data.randomness import generator, seeded
from leanformer.errors import ConfigError
from leanformer.models.preprocess import Preprocess

NUM_DRAWS = 9
"""Random numbers that vary one image of an array."""


@register_config("augment")
class Augment:
    """How training images are varied. Arrays of small images use `shift`, `hflip`, `vflip` and `erase` alone."""

    scale: tuple[float, float] = (0.35, 1.0)
    """Share of the area that a random crop keeps. Large data sets use (0.08, 1)."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the random crop."""
    shift: int = 2
    """Pixels by which an image of an array moves at most, in each direction."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    vflip: float = 0.0
    """Probability of a vertical flip."""
    auto_augment: str | None = None
    """timm's name of a policy: RandAugment `rand-m9-mstd0.5-inc1`, AutoAugment `original` or `v0`, AugMix `augmix-m3`,
    3-Augment `3a`."""
    color_jitter: float = 0.0
    """Strength of brightness, contrast and saturation changes; idle beside most `auto_augment` policies, as in timm,
    but not beside `3a`."""
    erase: float = 0.0
    """Probability that a random rectangle is erased."""
    erase_mode: Literal["pixel", "rand", "const"] = "pixel"
    """Fill it with noise for each pixel, with one random color, or with the mean color. Arrays become black."""
    erase_count: int = 1
    """Rectangles that are erased at most."""
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"scale must be (low, high) with 0 < low <= high <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"ratio must be (low, high) with 0 < low <= high, got {self.ratio}")
        if self.shift < 0:
            raise ConfigError(f"shift must be 0 or more pixels, got {self.shift}")
        for name in ("hflip", "vflip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a probability, got {getattr(self, name)}")
        if self.erase_count < 1:
            raise ConfigError(f"erase_count must be at least 1, got {self.erase_count}")
        if self.color_jitter < 0:
            raise ConfigError(f"color_jitter must be 0 or more, got {self.color_jitter}")


def image_transform(augment: Augment, preprocess: Preprocess) -> Callable[[Image.Image], Tensor]:
    """timm's training transform: an RGB image becomes a float32 (3, H, W) tensor, varied by the global generators."""
    from timm.data.transforms_factory import create_transform

    try:
        transform = create_transform(
            input_size=(3, *preprocess.image_size),
            is_training=True,
            scale=augment.scale,
            ratio=augment.ratio,
            hflip=augment.hflip,
            vflip=augment.vflip,
            auto_augment=augment.auto_augment,
            color_jitter=augment.color_jitter,
            interpolation=augment.interpolation,
            mean=preprocess.mean,
            std=preprocess.std,
            re_prob=augment.erase,
            re_mode=augment.erase_mode,
            re_count=augment.erase_count,
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise ConfigError(
            f"auto_augment {augment.auto_augment!r} is not a policy of timm; "
            "try rand-m9-mstd0.5-inc1, augmix-m3, 3a or original"
        ) from error
    for step in getattr(transform, "transforms", ()):
        _keep_no_bits(step)
    return transform  # type: ignore[return-value]


def _keep_no_bits(step: object) -> None:
    """Let the policies keep 0 bits of a color, which they ask for at their full strength: Pillow 13 refuses it, and
    until then it was black."""
    from timm.data.auto_augment import posterize

    for operation in (*getattr(step, "ops", ()), *(one for pair in getattr(step, "policy", ()) for one in pair)):
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    return ImageOps.posterize(image, min(bits, 8)) if bits >= 1 else Image.new(image.mode, image.size)


def augment_image(
    transform: Callable[[Image.Image], Tensor], image: Image.Image, seed: int, epoch: int, index: int, copy: int = 0
) -> Tensor:
    """Vary `image`, number `index` of its data set, as epoch `epoch` of a run with `seed` does for the `copy`-th time
    after the first."""
    with seeded("image", seed, epoch, index, copy):
        return transform(image)


def array_draws(seed: int, epoch: int, indices: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """What `augment_arrays` draws for each image, by itself: uniform in 0..1, float64 (B, NUM_DRAWS)."""
    pairs = zip(indices.tolist(), copies.tolist(), strict=True)
    return np.stack([generator("image", seed, epoch, index, copy).random(NUM_DRAWS) for index, copy in pairs])


def augment_arrays(pixels: np.ndarray, augment: Augment, draws: np.ndarray) -> np.ndarray:
    """Shift, flip and erase uint8 images (B, H, W) or (B, H, W, C); what moves in, and what is erased, is black."""
    batch, height, width = pixels.shape[:3]
    shift = augment.shift
    dy, dx = (draws.T[:2] * (2 * shift + 1)).astype(np.int64)
    mirrored, upturned = draws[:, 2] < augment.hflip, draws[:, 3] < augment.vflip

    rows = np.arange(height) + dy[:, None]  # (B, H), into the padded image
    rows = np.where(upturned[:, None], rows[:, ::-1], rows)
    columns = np.arange(width) + dx[:, None]  # (B, W)
    columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
    padding = [(0, 0), (shift, shift), (shift, shift)] + [(0, 0)] * (pixels.ndim - 3)
    padded = np.pad(pixels, padding)
    out = padded[np.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
    out[_rectangles(height, width, augment.erase, draws[:, 4:])] = 0
    return out


def _rectangles(height: int, width: int, share: float, draws: np.ndarray) -> np.ndarray:
    """True inside a rectangle of a sixth to a half of each side, in a `share` of the images; else False. (B, H, W)"""
    chosen = draws[:, 0] < share
    extent = 1 / 6 + (1 / 2 - 1 / 6) * draws.T[1:3]
    corner = draws.T[3:5] * (1 - extent)

    def inside(side: int, axis: int) -> np.ndarray:
        position = (np.arange(side) + 0.5) / side
        start = corner[axis][:, None]
        return (position >= start) & (position < start + extent[axis][:, None])

    return chosen[:, None, None] & inside(height, 0)[:, :, None] & inside(width, 1)[:, None, :]
