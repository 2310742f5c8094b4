"""Data that can be read from front to back alone: what an epoch of it shows, and how that is read.

An epoch takes the shards in an order drawn from (seed, epoch). Their images pass, one shard after another, through a
buffer of a fixed number of places, filled in order; every image that comes out makes room for the next one. As the
length of each shard is known, this order is known before anything is read, so a run goes on in the middle of an epoch
exactly: shards of which nothing is left are not opened, and what was shown already is passed over without decoding it.

One process reads the encoded images, ahead of time, and hands them to the workers that decode and vary them. So neither
the number of workers nor that of ranks changes what is seen, and workers do not multiply what is read; ranks do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from PIL import Image

from leanformer.data.labeled import LabeledImages
from leanformer.data.preprocess import open_image
from leanformer.data.randomness import generator
from leanformer.data.reading import Step
from leanformer.data.sampling import Order, Sampling, epoch_order, repeated_order, subset
from leanformer.data.stored import LabelSets, StoredImages
from leanformer.errors import ConfigError, DataError, TrainingError

T = TypeVar("T")
Fed = tuple[int, int, dict[int, bytes]]
"""A step, and the encoded images that it needs, by their numbers in the data set."""
STEPS_AHEAD = 2
"""Steps for which images are read before they are asked for."""
END = object()
"""Stands for the end of a source."""


class Shards(Protocol):
    """Rows in shards, each of which is read from its beginning."""

    title: str

    def rows(self, shard: int) -> Iterator[bytes]:
        """The encoded images of a shard, in their order; empty where one is missing."""
        ...


class Stream:
    """The rows of all shards as one store.

    Args:
        sizes: how many rows each shard has.
    """

    def __init__(self, shards: Shards, sizes: Sequence[int]) -> None:
        self.shards = shards
        self.ends = np.cumsum(sizes, dtype=np.int64)
        self._reel: Reel | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reel": None}

    def find(self, numbers: np.ndarray) -> np.ndarray:
        """The shard of each row; int64."""
        return np.searchsorted(self.ends, numbers, "right")

    def start(self, shard: int) -> int:
        """The number of a shard's first row."""
        return int(self.ends[shard - 1]) if shard else 0

    def image(self, number: int) -> Image.Image:
        """The image as RGB. Going forward reads on, going back starts the shard again."""
        if self._reel is None or not self._reel.is_ahead(number):
            self._reel = Reel(self)
        return self.decode(number, self._reel.take(number))

    def decode(self, number: int, data: bytes) -> Image.Image:
        """The image as RGB, from what a shard holds of it."""
        if not data:
            raise DataError(f"{self.name(number)} is empty")
        source = BytesIO(data)
        source.name = self.name(number)  # type: ignore[attr-defined] - what messages call it
        return open_image(source)

    def name(self, number: int) -> str:
        """The data set's title and the row."""
        return f"{self.shards.title}[{number}]"


class Reel:
    """Reads the rows of a stream that are asked for, in whatever order.

    Args:
        wanted: the numbers that will be asked for, as often as they will; such a row waits, encoded, from when it is
            passed until it was taken for the last time. Without them only going forward is possible.
    """

    def __init__(self, stream: Stream, wanted: np.ndarray | None = None) -> None:
        self.stream = stream
        self._left = None if wanted is None else np.bincount(wanted, minlength=int(stream.ends[-1])).astype(np.int32)
        self._waiting: dict[int, bytes] = {}
        self._open: dict[int, Iterator[tuple[int, bytes]]] = {}
        self._next: dict[int, int] = {}

    def is_ahead(self, number: int) -> bool:
        """Whether the row lies before where its shard, the only one that stays open, is being read."""
        shard = int(self.stream.find(np.array(number)))
        return self._next.get(shard, -1) <= number and shard in self._open

    def take(self, number: int) -> bytes:
        """The encoded image of a row.

        Raises:
            TrainingError: if the stream breaks, or has become shorter.
        """
        data = self._waiting.get(number)
        if data is None:
            data = self._read_to(number)
        if self._left is None:
            return data
        self._left[number] -= 1
        if self._left[number] > 0:
            self._waiting[number] = data
        else:
            self._waiting.pop(number, None)
        return data

    def __len__(self) -> int:
        return len(self._waiting)

    def _read_to(self, number: int) -> bytes:
        shard = int(self.stream.find(np.array(number)))
        if shard not in self._open:
            self._open[shard] = enumerate(self.stream.shards.rows(shard), self.stream.start(shard))
        for place, data in self._open[shard]:
            self._next[shard] = place + 1
            if place == number:
                self._close_if_read(shard)
                return data
            if self._left is not None and self._left[place] > 0:
                self._waiting[place] = data
        raise TrainingError(
            f"{self.stream.shards.title}: shard {shard} ends before row {number}, so it is not the one that was "
            "counted; start a new run with what is there now"
        )

    def _close_if_read(self, shard: int) -> None:
        """Let go of a shard of which no row is wanted any more."""
        if self._left is not None and not self._left[self._next[shard] : int(self.stream.ends[shard])].any():
            del self._open[shard]


class StreamedImages(StoredImages):
    """Some of the images of a stream, with a label each, or with several; `members` are sorted.

    Args:
        buffer: places of the buffer through which an epoch is shuffled.
    """

    def __init__(
        self,
        stream: Stream,
        members: np.ndarray,
        labels: np.ndarray,
        classes: tuple[str, ...],
        several: LabelSets | None = None,
        buffer: int = 1000,
    ) -> None:
        super().__init__(stream, members, labels, classes, several=several)
        self.stream, self.buffer = stream, buffer

    def order(self, sampling: Sampling, seed: int, epoch: int) -> Order:
        """What epoch `epoch` of a run shows, whatever the number of ranks and workers."""
        if sampling.balanced:
            raise ConfigError(
                "a stream cannot be shown balanced, for it is read from front to back; let rare classes count more by "
                "class_weights=balanced, or read the data without streaming"
            )
        random = generator("order", seed, epoch)
        chosen = subset(self.labels, sampling.fraction)
        by_shard = np.split(chosen, np.searchsorted(self.members[chosen], self.stream.ends[:-1]))
        line = np.concatenate([by_shard[shard] for shard in random.permutation(len(by_shard))])
        return repeated_order(through_buffer(line, self.buffer, random), sampling)

    def feed(self, steps: Sequence[Step], indices: Callable[[Step], np.ndarray]) -> FedSteps:
        """The steps, each with the encoded images of `indices(step)`."""
        return FedSteps(self, steps, indices)

    def holding(self, encoded: dict[int, bytes]) -> LabeledImages:
        """The same images, of which those in `encoded` need not be read."""
        return _Holding(self, encoded)


class FedSteps:
    """Steps with what they need to be made, read while the ones before are worked on."""

    def __init__(self, data: StreamedImages, steps: Sequence[Step], indices: Callable[[Step], np.ndarray]) -> None:
        self.data, self.steps, self.indices = data, steps, indices

    def __len__(self) -> int:
        return len(self.steps)

    def __contains__(self, step: object) -> bool:
        return step in self.steps

    def __iter__(self) -> Iterator[Fed]:
        return ahead(self._read(), STEPS_AHEAD)

    def _read(self) -> Iterator[Fed]:
        needed = [self.indices(step) for step in self.steps]
        reel = Reel(self.data.stream, self.data.members[np.concatenate(needed)]) if needed else None
        for (epoch, number), indices in zip(self.steps, needed, strict=True):
            assert reel is not None
            taken = [reel.take(member) for member in self.data.members[indices].tolist()]
            yield epoch, number, dict(zip(indices.tolist(), taken, strict=True))


def order_of(data: LabeledImages, sampling: Sampling, seed: int, epoch: int) -> Order:
    """What an epoch shows of any data: a pure function of (seed, epoch)."""
    if isinstance(data, StreamedImages):
        return data.order(sampling, seed, epoch)
    return epoch_order(data.labels, sampling, seed, epoch)


def through_buffer(line: np.ndarray, places: int, random: np.random.Generator) -> np.ndarray:
    """The order in which a line leaves a buffer of so many places: each time one of them, which the next in the line
    takes over; the last ones leave shuffled."""
    buffer = line[:places].copy()
    out = np.empty_like(line)
    coming = line[places:]
    chosen = random.integers(places, size=len(coming)) if len(coming) else ()
    for position, (place, number) in enumerate(zip(chosen, coming, strict=True)):
        out[position] = buffer[place]
        buffer[place] = number
    out[len(coming) :] = random.permutation(buffer)
    return out


def ahead(source: Iterable[T], count: int) -> Iterator[T]:
    """The items of a source, up to `count` of them made by a thread before they are asked for."""
    items, pool = iter(source), ThreadPoolExecutor(1, thread_name_prefix="stream")
    waiting = deque(pool.submit(next, items, END) for _ in range(count))
    try:
        while (item := waiting.popleft().result()) is not END:
            waiting.append(pool.submit(next, items, END))
            yield cast(T, item)
    finally:
        pool.shutdown(cancel_futures=True)


class _Holding:
    """A data set of which some images are at hand."""

    def __init__(self, data: StreamedImages, encoded: dict[int, bytes]) -> None:
        self.data, self.encoded = data, encoded
        self.classes, self.labels, self.several = data.classes, data.labels, data.several

    def __len__(self) -> int:
        return len(self.data)

    def image(self, index: int) -> Image.Image:
        """The image at `index` as RGB."""
        if index in self.encoded:
            return self.data.stream.decode(int(self.data.members[index]), self.encoded[index])
        return self.data.image(index)

    def name(self, index: int) -> str:
        """The row."""
        return self.data.name(index)
