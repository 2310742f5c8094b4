"""Batches made in this process or ahead of time in workers, within the shared memory there is."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from leanformer.data.labeled import ArrayImages, LabeledImages, nothing_readable
from leanformer.data.workers import follow_reader, signals_held, start_method
from leanformer.errors import ConfigError, DataError

log = logging.getLogger(__name__)

Step = tuple[int, int]
"""An epoch, and the number of a batch in it."""
Steps = Collection[Any]
"""Steps, each of which may come with what is needed to make its batch."""
SHARED_MEMORY = "/dev/shm"
MOST_AHEAD = 2
"""Batches that a worker holds ready."""


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


LOST_WORKER = re.compile(r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (is killed|exited unexpectedly)")
"""What torch says of a worker that is gone."""


class Reader:
    """Reads batches here or in workers, which stay from one epoch to the next, and remembers the unreadable images."""

    def __init__(self, data: LabeledImages, batch_size: int, workers: int, image_size: tuple[int, int]) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if workers < 0:
            raise ConfigError(f"workers must be 0 or more, got {workers}")
        if len(data) == 0:
            raise DataError("the data set holds no images")
        self.unreadable: dict[str, str] = {}
        self._num_images = len(data)
        self._workers = 0 if isinstance(data, ArrayImages) else workers
        self._batch_bytes = batch_size * 3 * image_size[0] * image_size[1] * 4
        self._steps = _Steps()
        self._loader: DataLoader[Batch] | None = None

    def read(self, source: Dataset[Batch], steps: Steps) -> Iterator[Batch]:
        """The batches of `steps`; of what they skipped, only what was not reported before."""
        for batch in self._parallel(source, steps) if self._workers else map(source.__getitem__, steps):
            new = tuple((name, error) for name, error in batch.skipped if name not in self.unreadable)
            self.unreadable.update(new)
            yield replace(batch, skipped=new)

    def nothing_readable(self) -> DataError:
        """The error for a data set without a single readable image."""
        return nothing_readable(self._num_images, list(self.unreadable.values()))

    def _parallel(self, source: Dataset[Batch], steps: Steps) -> Iterator[Batch]:
        self._steps.steps = steps
        self._loader = self._loader or self._start(source)
        return self._received(self._loader)

    def _received(self, loader: DataLoader[Batch]) -> Iterator[Batch]:
        try:
            with signals_held():
                batches = iter(loader)  # begins the workers, or tells them of the next steps
            yield from map(_with_tensors, batches)
        except (RuntimeError, EOFError, ConnectionError) as error:
            in_worker = str(error).startswith("Caught ")  # it lives, and sent this
            if in_worker or (isinstance(error, RuntimeError) and not LOST_WORKER.match(str(error))):
                raise
            self._loader = None
            raise DataError(
                f"one of {self._workers} processes that read images was killed from outside, most often for want of "
                "memory; use fewer workers or smaller batches"
            ) from error

    def _start(self, source: Dataset[Batch]) -> DataLoader[Batch]:
        ahead = batches_ahead(_room(), self._workers, self._batch_bytes)
        if ahead == 0:
            log.warning(
                "%s has no room for %d batches of %.0f MB, so they pass through pipes, which is slower; "
                "give it more (docker run --shm-size), or use fewer workers or smaller batches",
                SHARED_MEMORY,
                self._workers,
                self._batch_bytes / 1e6,
            )
        return DataLoader(
            source,
            batch_size=None,
            sampler=self._steps,
            num_workers=self._workers,
            prefetch_factor=max(ahead, 1),
            collate_fn=_as_it_is if ahead else _with_arrays,
            persistent_workers=True,
            multiprocessing_context=start_method(),
            generator=torch.Generator(),  # else it would draw from the global one
            worker_init_fn=follow_reader,
        )


def batches_ahead(room: int | None, workers: int, batch_bytes: int) -> int:
    """How many batches each worker may hold ready in half of `room` bytes of shared memory (None: no limit is known);
    0 if not even one."""
    if room is None:
        return MOST_AHEAD
    return min(MOST_AHEAD, room // 2 // (workers * batch_bytes))


def _room() -> int | None:
    """Free bytes of shared memory; None where it is no file system."""
    if not os.path.isdir(SHARED_MEMORY):
        return None
    facts = os.statvfs(SHARED_MEMORY)
    return facts.f_bavail * facts.f_frsize


class _Steps(Sampler[Any]):
    """What the workers shall read next."""

    def __init__(self) -> None:
        self.steps: Steps = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def _as_it_is(batch: Any) -> Any:
    return batch


def _with_arrays(batch: Any) -> Any:
    """The batch with arrays for tensors: arrays are sent, tensors are shared."""
    return _mapped(batch, Tensor, Tensor.numpy)


def _with_tensors(batch: Batch) -> Batch:
    return _mapped(batch, np.ndarray, torch.from_numpy)


def _mapped(batch: Batch, kind: type, function: Any) -> Batch:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    changed = {name: function(value) for name, value in values.items() if isinstance(value, kind)}
    return replace(batch, **changed) if changed else batch
