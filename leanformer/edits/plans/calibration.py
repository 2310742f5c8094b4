"""The images that a plan measures with: the same ones in the same batches, however often they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from leanformer.errors import ConfigError, DataError

LEAST_IMAGES = 16
"""With fewer, the spread of a feature is anybody's guess: its error is about 1 / sqrt(2 images)."""


class Calibration:
    """Batches that are read again and again, and have to be the same each time.

    Args:
        source: gives the batches anew at each call: images (B, 3, H, W), or pairs of them and their labels (B,).
        labeled: whether they are pairs.

    Attributes:
        num_images: of all batches; None until they were read once.
    """

    def __init__(self, source: Callable[[], Iterable[object]], *, labeled: bool) -> None:
        if not callable(source):
            raise ConfigError(
                f"batches has to be a function that gives the batches anew at each call, got {type(source).__name__}; "
                "for a list or a loader that does not shuffle: lambda: loader"
            )
        self.source = source
        self.labeled = labeled
        self.num_images: int | None = None
        self._seen: list[tuple[int, float]] | None = None

    def read(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W) and labels (B,), empty ones (0,) where there are none.

        Raises:
            DataError: for no or too few images, something else than images, or other images than the time before.
        """
        seen: list[tuple[int, float]] = []
        for batch in self.source():
            images, labels = self._checked(batch)
            seen.append((len(images), images.sum(dtype=torch.float64).item()))
            if self._seen is not None and seen != self._seen[: len(seen)]:
                raise DataError(_OTHER_IMAGES)
            yield images, labels
        self.num_images = sum(count for count, _ in seen)
        if self._seen is not None and seen != self._seen:
            raise DataError(_OTHER_IMAGES)
        if not seen:
            raise DataError("a plan cannot choose without data: batches gave no images")
        if self.num_images < LEAST_IMAGES:
            raise DataError(f"a plan needs {LEAST_IMAGES} images or more to measure with, got {self.num_images}")
        self._seen = seen

    def _checked(self, batch: object) -> tuple[Tensor, Tensor]:
        wanted = "a pair (images, labels)" if self.labeled else "images alone"
        images, labels = batch, torch.empty(0)
        if self.labeled and isinstance(batch, (tuple, list)) and len(batch) == 2:
            images, labels = batch
        elif self.labeled or not isinstance(batch, Tensor):
            raise DataError(f"each batch has to be {wanted}, got {type(batch).__name__}")
        if not isinstance(images, Tensor) or images.ndim != 4:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise DataError(f"images come as (batch, channels, height, width), got {shape}")
        if self.labeled and (not isinstance(labels, Tensor) or labels.shape != images.shape[:1]):
            raise DataError("labels come as one number for each image, (batch,)")
        return images, labels  # type: ignore[return-value]


_OTHER_IMAGES = (
    "the batches are not those of the first time: a plan compares networks on the same images in the same batches; "
    "turn off shuffling and random augmentation"
)
