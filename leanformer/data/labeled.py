"""What training and evaluation need of a data set of labeled images, and the data set that is one array in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from leanformer.errors import DataError

NUM_SHOWN = 3


class LabeledImages(Protocol):
    """Images, each of one class. Only `image` touches pixels, so everything else is cheap."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; a label is an index into them."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """The label of every image, int64."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The image at `index` as RGB; raises `DataError` if it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """What to call the image in a message: a path or a number."""
        ...


def has_several(data: LabeledImages) -> bool:
    """Whether an image may have any number of classes: its batches then hold a target for each."""
    return getattr(data, "several", None) is not None


def keys_of(data: LabeledImages) -> tuple[str, ...]:
    """What the classes are called where the data lies, such as the folder n01440764."""
    return getattr(data, "keys", data.classes)


def check_distinct(classes: Sequence[str], places: Sequence[str], source: object) -> None:
    """Refuse two classes of one name, which could not be told apart when a model is asked for one of them.

    Args:
        places: where each class comes from, as a message says it.

    Raises:
        DataError: naming the class and both places.
    """
    first: dict[str, str] = {}
    for name, place in zip(classes, places, strict=True):
        if name in first:
            raise DataError(
                f"{source} gives two classes the name {name!r}: {first[name]} and {place}; give each a name of its own"
            )
        first[name] = place


class ArrayImages:
    """Images of one size held as a uint8 array, (N, H, W) for grey or (N, H, W, 3): loaders have a fast path for
    them."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], title: str) -> None:
        assert pixels.dtype == np.uint8 and pixels.ndim in (3, 4) and len(pixels) == len(labels)
        self.pixels = pixels
        self.labels = labels.astype(np.int64)
        self.classes = classes
        self.title = title

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Image.Image:
        """The image at `index` as RGB."""
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def name(self, index: int) -> str:
        """The data set's title and the image's number in it."""
        return f"{self.title}[{index}]"


def nothing_readable(num_images: int, errors: list[str]) -> DataError:
    """The error for a data set without a single readable image."""
    shown = "".join(f"\n  {error}" for error in errors[:NUM_SHOWN])
    more = f"\n  and {len(errors) - NUM_SHOWN} more" if len(errors) > NUM_SHOWN else ""
    return DataError(f"none of the {num_images} images can be read{shown}{more}")
