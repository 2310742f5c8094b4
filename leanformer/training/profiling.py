"""Where the time of an epoch goes: the parts of the data pipeline, waiting for it, and the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from leanformer.data import Batch
from leanformer.data.labeled import ArrayImages
from leanformer.data.timing import measure_parts
from leanformer.training.callbacks import Callback

if TYPE_CHECKING:
    from leanformer.training.state import Run

log = logging.getLogger(__name__)

NUM_IMAGES = 32
"""That the parts of the pipeline are timed on."""
BOTTLENECK = 0.3
"""Share of the time spent waiting for data from which on the pipeline is the bottleneck."""


def waited_for(run: Run, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, the time until each is there added to `run.waited`, or for the first one of workers, which have to
    begin, to `run.start_up`."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(iterator, None)
        spent = time.perf_counter() - start
        if run.config.workers and not run.start_up:
            run.start_up = spent
        else:
            run.waited += spent
        if batch is None:
            return
        yield batch


class Profile(Callback):
    """Logs what the pipeline takes for an image in its parts, and after each epoch how long the steps waited for it."""

    first_rank_alone = True

    def __init__(self) -> None:
        self._begun = self._step_begun = self._model = self._waited = self._start_up = 0.0

    def on_start(self, run: Run) -> None:
        """Time the parts of the pipeline."""
        if not isinstance(run.train_images, ArrayImages):
            parts = measure_parts(run.train_images, run.model.preprocess, run.config.augment, NUM_IMAGES)
            log.info("the data pipeline: %s", parts)
        self._restart(run)

    def on_step(self, run: Run, step: int) -> None:
        """The batch is there."""
        self._step_begun = time.perf_counter()

    def after_step(self, run: Run, step: int) -> None:
        """The weights are updated."""
        self._model += time.perf_counter() - self._step_begun

    def on_epoch(self, run: Run, epoch: int) -> None:
        """Say where its time went."""
        spent, waited = max(time.perf_counter() - self._begun, 1e-9), run.waited - self._waited
        start_up = run.start_up - self._start_up
        log.info(
            "epoch %d took %.1f s: %swaiting for data %.1f s (%.0f %%), model %.1f s, evaluation and the rest %.1f s; "
            "%s",
            epoch + 1,
            spent,
            f"starting workers {start_up:.1f} s, " if start_up else "",
            waited,
            100 * waited / spent,
            self._model,
            max(spent - start_up - waited - self._model, 0.0),
            _verdict(run, waited / max(waited + self._model, 1e-9)),
        )
        self._restart(run)

    def on_rollback(self, run: Run) -> None:
        """What was done again does not count."""
        self._restart(run)

    def _restart(self, run: Run) -> None:
        self._begun, self._model = time.perf_counter(), 0.0
        self._waited, self._start_up = run.waited, run.start_up


def _verdict(run: Run, share: float) -> str:
    if share < BOTTLENECK:
        return "the data pipeline is not the bottleneck"
    advice = "images in arrays are read in the training process itself"
    if not isinstance(run.train_images, ArrayImages):
        advice = f"try more than {run.config.workers} workers, or images stored smaller"
    return f"the data pipeline is the bottleneck; {advice}"
