"""Where the time of a data pipeline goes, and how many images it delivers in a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from leanformer.data.augment import Augment, augment_image, image_transform
from leanformer.data.labeled import LabeledImages
from leanformer.data.loading import TrainBatches
from leanformer.data.preprocess import prepare
from leanformer.data.streams import StreamedImages
from leanformer.errors import DataError
from leanformer.models.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class PipelineTimes:
    """Seconds for an image in each part, in one process."""

    decode: float
    """Reading and decoding."""
    resize: float
    """The evaluation transform: resize, crop, normalize."""
    augment: float
    """What the training transform takes beyond that, at least 0."""
    collate: float
    """Stacking the images of a batch."""

    @property
    def images_per_second(self) -> float:
        """What one process can deliver."""
        return 1 / (self.decode + self.resize + self.augment + self.collate)

    def __str__(self) -> str:
        parts = {name: 1000 * getattr(self, name) for name in ("decode", "resize", "augment", "collate")}
        shown = ", ".join(f"{name} {value:.2f} ms" for name, value in parts.items())
        return f"{shown} for an image: {self.images_per_second:.0f} images/s in one process"


def measure_parts(
    data: LabeledImages, preprocess: Preprocess, augment: Augment | None, num_images: int = 64
) -> PipelineTimes:
    """Time each part on images spread over the data set, of a stream on its first ones; the first that can be read
    warms up and does not count.

    Raises:
        DataError: if less than two of them can be read.
    """
    last = min(num_images, len(data) - 1) if isinstance(data, StreamedImages) else len(data) - 1
    chosen = np.linspace(0, last, num_images + 1).astype(np.int64).tolist()
    transform = None if augment is None else image_transform(augment, preprocess)
    spent = {"decode": 0.0, "resize": 0.0, "train": 0.0, "collate": 0.0}
    tensors = []
    for index in chosen:
        if len(tensors) == 1:
            spent = dict.fromkeys(spent, 0.0)
        try:
            with _timed(spent, "decode"):
                image = data.image(index)
        except DataError:
            continue  # training names it when it gets there
        with _timed(spent, "resize"):
            tensors.append(prepare(image, preprocess))
        if transform is not None:
            with _timed(spent, "train"):
                augment_image(transform, image, 0, 0, index)
    if len(tensors) < 2:
        raise DataError(f"of {len(chosen)} images spread over the data, {len(tensors)} can be read; two are needed")
    with _timed(spent, "collate"):
        torch.stack(tensors)
    each = {name: seconds / (len(tensors) - 1) for name, seconds in spent.items()}
    beyond = max(each["train"] - each["resize"], 0.0)
    return PipelineTimes(decode=each["decode"], resize=each["resize"], augment=beyond, collate=each["collate"])


def images_per_second(batches: TrainBatches, seconds: float = 5.0, warm_up: int = 2) -> float:
    """How many images a second a loader delivers to someone who does nothing else, after `warm_up` batches."""
    count, number, start = 0, 0, time.perf_counter()
    for epoch in range(2**31):
        for batch in batches.batches(epoch):
            number += 1
            if number <= warm_up:
                start = time.perf_counter()
                continue
            count += len(batch.indices)
            spent = time.perf_counter() - start
            if spent >= seconds:
                return count / spent
    raise AssertionError("an epoch has a batch")


@contextmanager
def _timed(spent: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent[name] += time.perf_counter() - start
