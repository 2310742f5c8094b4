"""Batches for training and evaluation: the same whatever the number of workers, from any step of any epoch.

The order of an epoch is drawn from (seed, epoch) and every augmentation from (seed, epoch, index, copy), so a run that
starts again in the middle of an epoch sees exactly what it would have seen, and several ranks see together what one
would. In training, an unreadable image is replaced by the next readable one after its batch in the order of the epoch,
and where the epoch has none left the batch is smaller, or, if it is mixed in pairs, shows some of its images twice; in
evaluation it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from leanformer.data.augment import Augment, array_draws, augment_arrays, augment_image, image_transform
from leanformer.data.labeled import ArrayImages, LabeledImages
from leanformer.data.mixing import check_pairs
from leanformer.data.preprocess import prepare, prepare_arrays
from leanformer.data.reading import Batch, Reader, Step
from leanformer.data.sampling import Order, Sampling
from leanformer.data.streams import Fed, StreamedImages, order_of
from leanformer.errors import ConfigError, DataError
from leanformer.models.preprocess import Preprocess

__all__ = ["Batch", "EvalBatches", "Share", "Step", "TrainBatches"]

Share = tuple[int, int]
"""A rank, and the number of ranks that share the images."""
ALONE: Share = (0, 1)


class TrainBatches:
    """Shuffled and augmented batches. A data set smaller than the batch size gives batches of its own size.

    Args:
        augment: None uses the evaluation transform.
        batch_size: Images in a batch of all ranks together.
        workers: Processes that read images ahead; 0 reads in this one, and so do arrays in memory, which need none.
        share: Each rank gets every n-th image of a batch.
        mirrored: Each rank gets every n-th pair of a batch, the first image with the last and so on, as they are mixed.

    Raises:
        ConfigError: if a batch cannot be shared so, or, `mirrored`, does not come in pairs.
    """

    def __init__(
        self,
        data: LabeledImages,
        preprocess: Preprocess,
        augment: Augment | None,
        batch_size: int,
        seed: int,
        workers: int = 0,
        sampling: Sampling | None = None,
        share: Share = ALONE,
        mirrored: bool = False,
    ) -> None:
        if seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {seed}")
        if augment is not None and augment.auto_augment is not None:
            image_transform(augment, preprocess)  # a wrong name fails here rather than in a worker
        self._reader = Reader(data, batch_size, workers, preprocess.image_size)
        how = (batch_size, seed, sampling or Sampling(), share, mirrored)
        self._source = _TrainSource(data, preprocess, augment, *how)
        length = len(self._source.order(0))
        self._source.batch_size = min(batch_size, length) // share[1] * share[1]
        if self._source.batch_size == 0 or (batch_size < length and batch_size % share[1]):
            raise ConfigError(f"a batch of {min(batch_size, length)} images cannot be shared by {share[1]} ranks")
        if mirrored:
            check_pairs(self._source.batch_size // share[1], share[1])
        self.steps_per_epoch = length // self._source.batch_size
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
        steps = [(epoch, step) for step in range(start, self.steps_per_epoch)]
        for batch in self._reader.read(self._source, _fed(self._source, steps)):
            if len(batch.indices) == 0:
                raise self._reader.nothing_readable()
            yield batch


class EvalBatches:
    """Every image once, in order, by the evaluation transform. Iterate over it as often as you like.

    Args:
        batch_size: Images in a batch of this rank.
        share: Each rank gets every n-th image; together they see each of them once.
    """

    def __init__(
        self, data: LabeledImages, preprocess: Preprocess, batch_size: int, workers: int = 0, share: Share = ALONE
    ) -> None:
        self._reader = Reader(data, batch_size, workers, preprocess.image_size)
        self._source = _EvalSource(data, preprocess, batch_size, share)
        self._is_alone = share == ALONE
        self._num_batches = math.ceil(len(range(share[0], len(data), share[1])) / batch_size)

    @property
    def unreadable(self) -> dict[str, str]:
        """Name and error of every image found unreadable so far."""
        return self._reader.unreadable

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        """The batches; one without a readable image is left out, and a neighbor reports what it skipped.

        Raises:
            DataError: if no image of the data set can be read; a rank that shares it yields no batch then.
        """
        held, skipped = None, ()
        for batch in self._reader.read(self._source, _fed(self._source, [(0, step) for step in range(len(self))])):
            skipped += batch.skipped
            if len(batch.indices):
                if held is not None:
                    yield held
                held, skipped = replace(batch, skipped=skipped), ()
        if held is None and not self._is_alone:
            return
        if held is None:
            raise self._reader.nothing_readable()
        yield replace(held, skipped=held.skipped + skipped)


class _TrainSource(Dataset[Batch]):
    """Makes the training batch of any step; a worker holds a copy."""

    def __init__(
        self,
        data: LabeledImages,
        preprocess: Preprocess,
        augment: Augment | None,
        batch_size: int,
        seed: int,
        sampling: Sampling,
        share: Share,
        mirrored: bool,
    ) -> None:
        self.data, self.preprocess, self.augment = data, preprocess, augment
        self.batch_size, self.seed = batch_size, seed
        self.sampling, self.share, self.mirrored = sampling, share, mirrored
        self._known: tuple[int, Order] | None = None

    def order(self, epoch: int) -> Order:
        """What the epoch shows; that of the last one asked for is kept."""
        if self._known is None or self._known[0] != epoch:
            self._known = epoch, order_of(self.data, self.sampling, self.seed, epoch)
        return self._known[1]

    def places(self, step: Step) -> np.ndarray:
        """Where in the order of its epoch the images of a step are; int64 (B,)."""
        rank, world = self.share
        places = np.arange(rank, self.batch_size // 2 if self.mirrored else self.batch_size, world)
        if self.mirrored:
            places = np.concatenate([places, self.batch_size - 1 - places[::-1]])
        return step[1] * self.batch_size + places

    def candidates(self, step: Step) -> Iterator[int]:
        """These places, and after them those whose images replace unreadable ones: what follows the batch, shared like
        it, and at last what is left of the epoch, so that all ranks find as many images. `mirrored`, all of them come
        twice: so either the batch becomes full, or each of its images has a copy, and their number is even."""
        (rank, world), length = self.share, len(self.order(step[0]))
        own, start = self.places(step), step[1] * self.batch_size
        after = range(start + self.batch_size + rank, start + length, world)
        for _ in range(2 if self.mirrored else 1):
            yield from (place % length for place in chain(own.tolist(), after))
            others = np.setdiff1d(np.arange(start, start + length), [*own, *after])
            yield from (others % length).tolist()

    def indices(self, step: Step) -> np.ndarray:
        """The images of a step, if all can be read; int64 (B,)."""
        return self.order(step[0]).indices[self.places(step)]

    def __getitem__(self, step: Step | Fed) -> Batch:
        epoch, number, *encoded = step
        order, places = self.order(epoch), self.places((epoch, number))
        if isinstance(self.data, ArrayImages):
            indices, copies = order.indices[places], order.copies[places]
            pixels = self.data.pixels[indices]
            if self.augment is not None:
                pixels = augment_arrays(pixels, self.augment, array_draws(self.seed, epoch, indices, copies))
            return _array_batch(self.data, indices, pixels, self.preprocess)
        found = self.candidates((epoch, number))
        candidates = ((int(order.indices[place]), int(order.copies[place])) for place in found)
        data = _with(self.data, encoded)
        return _image_batch(data, candidates, len(places), lambda image, *which: self._vary(image, epoch, *which))

    @cached_property
    def _transform(self) -> Callable[[Image.Image], Tensor]:
        assert self.augment is not None
        return image_transform(self.augment, self.preprocess)

    def _vary(self, image: Image.Image, epoch: int, index: int, copy: int) -> Tensor:
        if self.augment is None:
            return prepare(image, self.preprocess)
        return augment_image(self._transform, image, self.seed, epoch, index, copy)


class _EvalSource(Dataset[Batch]):
    """Makes the evaluation batch of any step."""

    def __init__(self, data: LabeledImages, preprocess: Preprocess, batch_size: int, share: Share) -> None:
        self.data, self.preprocess, self.batch_size, self.share = data, preprocess, batch_size, share

    def indices(self, step: Step) -> np.ndarray:
        """The images of a step; int64 (B,)."""
        rank, world = self.share
        start = step[1] * self.batch_size * world + rank
        return np.arange(start, min(start + self.batch_size * world, len(self.data)), world)

    def __getitem__(self, step: Step | Fed) -> Batch:
        epoch, number, *encoded = step
        indices = self.indices((epoch, number))
        if isinstance(self.data, ArrayImages):
            return _array_batch(self.data, indices, self.data.pixels[indices], self.preprocess)
        candidates = ((int(index), 0) for index in indices)
        data = _with(self.data, encoded)
        return _image_batch(data, candidates, len(indices), lambda image, *_: prepare(image, self.preprocess))


def _fed(source: _TrainSource | _EvalSource, steps: list[Step]) -> Collection[Step | Fed]:
    """The steps; those of a stream with what was read for them, as workers do not read it."""
    return source.data.feed(steps, source.indices) if isinstance(source.data, StreamedImages) else steps


def _with(data: LabeledImages, encoded: list[dict[int, bytes]]) -> LabeledImages:
    """The data set, which need not read again what came with the step."""
    return data.holding(encoded[0]) if isinstance(data, StreamedImages) and encoded else data


def _array_batch(data: ArrayImages, indices: np.ndarray, pixels: np.ndarray, preprocess: Preprocess) -> Batch:
    labels = torch.from_numpy(data.labels[indices])
    return Batch(images=prepare_arrays(pixels, preprocess), labels=labels, indices=torch.from_numpy(indices.copy()))


def _image_batch(
    data: LabeledImages,
    candidates: Iterable[tuple[int, int]],
    size: int,
    prepare: Callable[[Image.Image, int, int], Tensor],
) -> Batch:
    """The first `size` readable images among the candidates, given by number and copy; fewer if there are no more."""
    images, indices, skipped = [], [], {}
    for index, copy in candidates:
        if len(images) == size:
            break
        if index in skipped:
            continue
        try:
            image = data.image(index)
        except DataError as error:
            skipped[index] = data.name(index), str(error)
        else:
            images.append(prepare(image, index, copy))
            indices.append(index)
    return Batch(
        images=torch.stack(images) if images else torch.empty(0),
        labels=_labels(data, np.array(indices, np.int64)),
        indices=torch.tensor(indices, dtype=torch.int64),
        skipped=tuple(skipped.values()),
    )


def _labels(data: LabeledImages, indices: np.ndarray) -> Tensor:
    """The label of each image, or a row with 1 for each of its classes where an image may have several."""
    several = getattr(data, "several", None)
    return torch.from_numpy(np.asarray(data.labels, np.int64)[indices] if several is None else several.hot(indices))
