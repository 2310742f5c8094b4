"""Batches for training and evaluation: the same whatever the number of workers, from any step of any epoch.

The order of an epoch is a permutation drawn from (seed, epoch) and every augmentation is drawn from (seed, epoch,
index), or (seed, epoch, batch) for arrays, so a run that starts again in the middle of an epoch sees exactly what it
would have seen. In training, an unreadable image is replaced by the next readable one after its batch in the order of
the epoch; in evaluation it is left out.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from leanformer.data.augment import Augment, augment_arrays, augment_image, image_transform
from leanformer.data.labeled import ArrayImages, LabeledImages
from leanformer.data.preprocess import prepare, prepare_arrays
from leanformer.data.randomness import generator
from leanformer.data.stored import StoredImages
from leanformer.errors import ConfigError, DataError
from leanformer.models.preprocess import Preprocess

Step = tuple[int, int]
"""An epoch, and the number of a batch in it."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images with their labels."""

    images: Tensor
    """float32 (B, 3, H, W), normalized."""
    labels: Tensor
    """int64 (B,); float32 (B, num_classes) of zeros and ones for images of several classes."""
    indices: Tensor
    """int64 (B,), the images' numbers in the data set."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Name and error of the images found unreadable since the batch before; a loader reports each of them once."""


class TrainBatches:
    """Shuffled and augmented batches. A data set smaller than the batch size gives batches of its own size.

    Args:
        augment: None uses the evaluation transform.
        workers: Processes that read images ahead; 0 reads in this one, and so do arrays in memory, which need none.
    """

    def __init__(
        self,
        data: LabeledImages,
        preprocess: Preprocess,
        augment: Augment | None,
        batch_size: int,
        seed: int,
        workers: int = 0,
    ) -> None:
        if seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {seed}")
        if augment is not None and augment.auto_augment is not None:
            image_transform(augment, preprocess)  # a wrong name fails here rather than in a worker
        self._reader = _Reader(data, batch_size, workers)
        batch_size = min(batch_size, len(data))
        self._source = _TrainSource(data, preprocess, augment, batch_size, seed)
        self.steps_per_epoch = len(data) // batch_size
        """Batches in an epoch, at least one; what does not fill another batch is left out."""

    @property
    def unreadable(self) -> dict[str, str]:
        """Name and error of every image found unreadable so far."""
        return self._reader.unreadable

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on.

        Raises:
            DataError: if no image of the data set can be read.
        """
        for batch in self._reader.read(self._source, [(epoch, step) for step in range(start, self.steps_per_epoch)]):
            if len(batch.indices) == 0:
                raise self._reader.nothing_readable()
            yield batch


class EvalBatches:
    """Every image once, in order, by the evaluation transform. Iterate over it as often as you like."""

    def __init__(self, data: LabeledImages, preprocess: Preprocess, batch_size: int, workers: int = 0) -> None:
        self._reader = _Reader(data, batch_size, workers)
        self._source = _EvalSource(data, preprocess, batch_size)
        self._num_batches = math.ceil(len(data) / batch_size)

    @property
    def unreadable(self) -> dict[str, str]:
        """Name and error of every image found unreadable so far."""
        return self._reader.unreadable

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        """The batches; one without a readable image is left out, and a neighbor reports what it skipped.

        Raises:
            DataError: if no image of the data set can be read.
        """
        held, skipped = None, ()
        for batch in self._reader.read(self._source, [(0, step) for step in range(len(self))]):
            skipped += batch.skipped
            if len(batch.indices):
                if held is not None:
                    yield held
                held, skipped = replace(batch, skipped=skipped), ()
        if held is None:
            raise self._reader.nothing_readable()
        yield replace(held, skipped=held.skipped + skipped)


class _TrainSource(Dataset[Batch]):
    """Makes the training batch of any step; a worker holds a copy."""

    def __init__(
        self, data: LabeledImages, preprocess: Preprocess, augment: Augment | None, batch_size: int, seed: int
    ) -> None:
        self.data, self.preprocess, self.augment = data, preprocess, augment
        self.batch_size, self.seed = batch_size, seed

    def __getitem__(self, step: Step) -> Batch:
        epoch, number = step
        order = np.roll(_order(len(self.data), self.seed, epoch), -number * self.batch_size)
        size = self.batch_size
        if isinstance(self.data, ArrayImages):
            pixels = self.data.pixels[order[:size]]
            if self.augment is not None:
                pixels = augment_arrays(pixels, self.augment, generator("batch", self.seed, epoch, number))
            return _array_batch(self.data, order[:size], pixels, self.preprocess)
        return _image_batch(self.data, order, size, lambda image, index: self._vary(image, epoch, index))

    @cached_property
    def _transform(self) -> Callable[[Image.Image], Tensor]:
        assert self.augment is not None
        return image_transform(self.augment, self.preprocess)

    def _vary(self, image: Image.Image, epoch: int, index: int) -> Tensor:
        if self.augment is None:
            return prepare(image, self.preprocess)
        return augment_image(self._transform, image, self.seed, epoch, index)


class _EvalSource(Dataset[Batch]):
    """Makes the evaluation batch of any step."""

    def __init__(self, data: LabeledImages, preprocess: Preprocess, batch_size: int) -> None:
        self.data, self.preprocess, self.batch_size = data, preprocess, batch_size

    def __getitem__(self, step: Step) -> Batch:
        start = step[1] * self.batch_size
        indices = np.arange(start, min(start + self.batch_size, len(self.data)))
        if isinstance(self.data, ArrayImages):
            return _array_batch(self.data, indices, self.data.pixels[indices], self.preprocess)
        return _image_batch(self.data, indices, len(indices), lambda image, _: prepare(image, self.preprocess))


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return generator("order", seed, epoch).permutation(count)


def _array_batch(data: ArrayImages, indices: np.ndarray, pixels: np.ndarray, preprocess: Preprocess) -> Batch:
    labels = torch.from_numpy(data.labels[indices])
    return Batch(images=prepare_arrays(pixels, preprocess), labels=labels, indices=torch.from_numpy(indices.copy()))


def _image_batch(
    data: LabeledImages, candidates: Iterable[int], size: int, prepare: Callable[[Image.Image, int], Tensor]
) -> Batch:
    """The first `size` readable images among the candidates, fewer if there are no more."""
    images, indices, skipped = [], [], []
    for index in map(int, candidates):
        if len(images) == size:
            break
        try:
            image = data.image(index)
        except DataError as error:
            skipped.append((data.name(index), str(error)))
        else:
            images.append(prepare(image, index))
            indices.append(index)
    return Batch(
        images=torch.stack(images) if images else torch.empty(0),
        labels=_labels(data, np.array(indices, np.int64)),
        indices=torch.tensor(indices, dtype=torch.int64),
        skipped=tuple(skipped),
    )


def _labels(data: LabeledImages, indices: np.ndarray) -> Tensor:
    """The label of each image, or a row with 1 for each of its classes where an image may have several."""
    several = data.several if isinstance(data, StoredImages) else None
    return torch.from_numpy(np.asarray(data.labels, np.int64)[indices] if several is None else several.hot(indices))


class _Steps(Sampler[Step]):
    """What the workers shall read next."""

    def __init__(self) -> None:
        self.steps: Sequence[Step] = ()

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, but when to stop is for the one that trains to decide."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Reader:
    """Reads batches here or in workers, which stay from one epoch to the next, and remembers the unreadable images."""

    def __init__(self, data: LabeledImages, batch_size: int, workers: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if workers < 0:
            raise ConfigError(f"workers must be 0 or more, got {workers}")
        if len(data) == 0:
            raise DataError("the data set holds no images")
        self.unreadable: dict[str, str] = {}
        self._num_images = len(data)
        self._workers = 0 if isinstance(data, ArrayImages) else workers
        self._steps = _Steps()
        self._loader: DataLoader[Batch] | None = None

    def read(self, source: Dataset[Batch], steps: Sequence[Step]) -> Iterator[Batch]:
        """The batches of `steps`; of what they skipped, only what was not reported before."""
        for batch in self._parallel(source, steps) if self._workers else map(source.__getitem__, steps):
            new = tuple((name, error) for name, error in batch.skipped if name not in self.unreadable)
            self.unreadable.update(new)
            yield replace(batch, skipped=new)

    def nothing_readable(self) -> DataError:
        """The error for a data set without a single readable image."""
        errors = list(self.unreadable.values())
        shown = "".join(f"\n  {error}" for error in errors[:3])
        more = f"\n  and {len(errors) - 3} more" if len(errors) > 3 else ""
        return DataError(f"none of the {self._num_images} images can be read{shown}{more}")

    def _parallel(self, source: Dataset[Batch], steps: Sequence[Step]) -> Iterable[Batch]:
        self._steps.steps = steps
        self._loader = self._loader or self._start(source)
        return self._loader

    def _start(self, source: Dataset[Batch]) -> DataLoader[Batch]:
        # Forked workers could inherit a lock that another thread holds, so they come from a clean process.
        methods = multiprocessing.get_all_start_methods()
        return DataLoader(
            source,
            batch_size=None,
            sampler=self._steps,
            num_workers=self._workers,
            persistent_workers=True,
            multiprocessing_context="forkserver" if "forkserver" in methods else "spawn",
            generator=torch.Generator(),  # else it would draw from the global one
            worker_init_fn=_ignore_interrupts,
        )
