"""Some of the images of a data set."""

from __future__ import annotations

import numpy as np
from PIL import Image

from leanformer.data.labeled import ArrayImages, LabeledImages, has_several, keys_of
from leanformer.data.randomness import generator
from leanformer.data.sampling import subset
from leanformer.data.stored import LabelSets


class PartOfImages:
    """The images of `data` at `indices`, in that order; it knows the same classes."""

    def __init__(self, data: LabeledImages, indices: np.ndarray) -> None:
        self.data, self.indices = data, indices
        self.classes = data.classes
        self.keys = keys_of(data)
        self.labels = data.labels[indices]
        several = getattr(data, "several", None)
        self.several = None if several is None else LabelSets((several[int(i)] for i in indices), len(data.classes))

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        """The image at `index` as RGB."""
        return self.data.image(int(self.indices[index]))

    def name(self, index: int) -> str:
        """What the whole data set calls it."""
        return self.data.name(int(self.indices[index]))


def some_of(data: LabeledImages, count: int) -> LabeledImages:
    """At least `count` images, about as many of each class as its share, always the same ones; all, if there are no
    more."""
    if count >= len(data):
        return data
    indices = subset(data.labels, count / len(data))
    indices = indices[generator("order", 0, 0).permutation(len(indices))]  # no class alone in a batch
    if isinstance(data, ArrayImages) and not has_several(data):
        return ArrayImages(data.pixels[indices], data.labels[indices], data.classes, data.title)
    return PartOfImages(data, indices)
