"""Small deterministic data sets that a tiny model learns in seconds: colored shapes, in memory or as a folder of files
in every format and mode that users bring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from leanformer.data.labeled import ArrayImages
from leanformer.data.preprocess import ORIENTATION
from leanformer.errors import ConfigError

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = {"red": (220, 50, 40), "green": (40, 180, 70), "blue": (50, 80, 220)}
CLASSES = tuple(f"{tuple(COLORS)[number % 3]} {SHAPES[number % 4]}" for number in range(12))
"""Every color with every shape; neighbors differ in both, so that few classes can be told apart in grey."""


def shapes(num_images: int = 96, num_classes: int = 4, size: int = 32, seed: int = 0) -> ArrayImages:
    """Colored shapes of random place and extent on a noisy grey ground; the labels take turns."""
    if not 1 <= num_classes <= len(CLASSES):
        raise ConfigError(f"num_classes must be 1 to {len(CLASSES)}, got {num_classes}")
    random = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    pixels = np.stack([_draw(CLASSES[label], size, size, random) for label in labels])
    return ArrayImages(pixels, labels, CLASSES[:num_classes], f"shapes/{seed}")


def write_folder(
    root: str | Path,
    num_classes: int = 3,
    per_class: int = 12,
    num_val: int = 4,
    num_unreadable: int = 0,
    size: int = 40,
    seed: int = 0,
) -> Path:
    """Write a folder of shapes: `per_class` images of each class below `train`, `num_val` below `val`.

    Sizes vary about `size`; grey, RGBA, palette, EXIF-rotated, 16-bit, CMYK and plain files take turns. With `num_val`
    0 the classes lie in the root itself. The first `num_unreadable` images of the first class of `train` are damaged.
    """
    root = Path(root)
    random = np.random.default_rng(seed)
    splits = {"train": per_class, "val": num_val} if num_val else {"": per_class}
    for split, count in splits.items():
        for name in CLASSES[:num_classes]:
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                height, width = random.integers(size * 3 // 4, size * 3 // 2, 2)
                image = Image.fromarray(_draw(name, int(height), int(width), random))
                WRITERS[number % len(WRITERS)](image, folder / f"{number:03d}")
    for path in sorted((root / next(iter(splits)) / CLASSES[0]).iterdir())[:num_unreadable]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    return root


def _draw(name: str, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """A picture of the class `name`, uint8 (H, W, 3)."""
    color, shape = name.split()
    ground = random.integers(100, 156, (height, width, 1)) + random.integers(-20, 21, (height, width, 3))
    side = min(height, width)
    radius = side * random.uniform(0.25, 0.4)
    x0, y0 = random.uniform(radius, width - radius), random.uniform(radius, height - radius)
    y, x = np.mgrid[:height, :width]
    x, y = (x + 0.5 - x0) / radius, (y + 0.5 - y0) / radius  # the shape fills -1..1
    inside = {
        "circle": x**2 + y**2 < 1,
        "square": np.maximum(abs(x), abs(y)) < 0.85,
        "triangle": (y < 0.8) & (y > 2.2 * abs(x) - 1),
        "cross": (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
    }[shape]
    return np.where(inside[..., None], COLORS[color], ground).clip(0, 255).astype(np.uint8)


def _jpeg(image: Image.Image, stem: Path) -> None:
    image.save(stem.with_suffix(".jpg"), quality=92)


def _grey(image: Image.Image, stem: Path) -> None:
    image.convert("L").save(stem.with_suffix(".png"))


def _rgba(image: Image.Image, stem: Path) -> None:
    image.putalpha(Image.new("L", image.size, 200))
    image.save(stem.with_suffix(".png"))


def _palette(image: Image.Image, stem: Path) -> None:
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(stem.with_suffix(".gif"))


def _rotated(image: Image.Image, stem: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be shown turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(stem.with_suffix(".JPG"), quality=92, exif=exif, format="JPEG")


def _sixteen_bit(image: Image.Image, stem: Path) -> None:
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(stem.with_suffix(".png"))


def _cmyk(image: Image.Image, stem: Path) -> None:
    image.convert("CMYK").save(stem.with_suffix(".jpeg"), quality=92)


def _webp(image: Image.Image, stem: Path) -> None:
    image.save(stem.with_suffix(".webp"), lossless=True)


WRITERS: tuple[Callable[[Image.Image, Path], None], ...] = (
    _jpeg,
    _grey,
    _rgba,
    _palette,
    _rotated,
    _sixteen_bit,
    _cmyk,
    _webp,
)
