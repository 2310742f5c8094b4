"""Both sides of a data set as one: a test set that is divided nowhere is evaluated as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from PIL import Image

from leanformer.data.labeled import LabeledImages, has_several, keys_of
from leanformer.data.stored import LabelSets
from leanformer.errors import DataError


class JoinedImages:
    """The images of `first`, then those of `second`; both know the same classes."""

    def __init__(self, first: LabeledImages, second: LabeledImages) -> None:
        if first.classes != second.classes:
            raise DataError(f"data of {len(first.classes)} and of {len(second.classes)} classes cannot be joined")
        self.parts = (first, second)
        self.classes = first.classes
        self.keys = keys_of(first)
        self.labels = np.concatenate([first.labels, second.labels])
        self.several = _sets(self.parts) if any(map(has_several, self.parts)) else None

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The image at `index` as RGB."""
        part, place = self._find(index)
        return part.image(place)

    def name(self, index: int) -> str:
        """What its own side calls it."""
        part, place = self._find(index)
        return part.name(place)

    def _find(self, index: int) -> tuple[LabeledImages, int]:
        first, second = self.parts
        return (first, index) if index < len(first) else (second, index - len(first))


def _sets(parts: Sequence[LabeledImages]) -> LabelSets:
    """The labels of all images; an image of a side that gives each one class has that one."""
    sets = [getattr(part, "several", None) or part.labels[:, None].tolist() for part in parts]
    return LabelSets(chain.from_iterable(sets), len(parts[0].classes))
