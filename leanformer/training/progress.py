"""How far a run is, for people: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from leanformer.tasks import format_line
from leanformer.training.callbacks import Callback

if TYPE_CHECKING:
    from leanformer.training.state import Run

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
FEW_STEPS = 5
"""Steps in an epoch below which a smaller batch is advised."""
BLENDING = (
    "norms are still blended (norm_progress %.2f): validation uses RepBN alone, whatever the progress, so its figures "
    "are poor until the blend is over"
)


class Progress(Callback):
    """What is trained on what, then rate, loss and time left, and a log line after each epoch."""

    first_rank_alone = True

    def __init__(self) -> None:
        self._bar: Any = None
        self._started = self._last_line = 0.0
        self._first_step = self._images = 0
        self._blend_explained = False

    def on_start(self, run: Run) -> None:
        """Say what begins, and open the bar if there is a terminal to show it on."""
        log.info("%s", _beginning(run))
        if run.steps_per_epoch < FEW_STEPS and run.config.batch_size > 1:
            log.warning("%s", _few_steps(run))
        self._started = self._last_line = time.perf_counter()
        self._first_step = run.step
        if sys.stderr.isatty():
            self._bar = _open_bar(run)

    def after_step(self, run: Run, step: int) -> None:
        """Move the bar, or write a line now and then."""
        self._images += run.last.num_images
        now = time.perf_counter()
        if self._bar is None and now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        rate = self._images / max(now - self._started, 1e-9)
        left = (run.total_steps - run.step) * (now - self._started) / max(run.step - self._first_step, 1)
        figures = f"loss {run.last.loss:.3f}  {rate:,.0f} images/s  {_clock(left)} left"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=run.step, epoch=run.epoch + 1, figures=figures)
        else:
            log.info(
                "epoch %d/%d  step %d/%d  %s", run.epoch + 1, run.config.epochs, run.step, run.total_steps, figures
            )

    def on_epoch(self, run: Run, epoch: int) -> None:
        """Log how the epoch ended."""
        result = "" if run.evaluation is None else f"  {format_line(run.evaluation)}"
        if run.ema_evaluation is not None:
            result += f"  averaged: {format_line(run.ema_evaluation)}"
        log.info("epoch %d/%d  train loss %.3f%s", epoch + 1, run.config.epochs, run.last_epoch_loss, result)
        share = run.values.get("norm_progress", 0.0)
        if share > 0 and run.evaluation is not None and not self._blend_explained:
            self._blend_explained = True
            log.info(BLENDING, share)

    def on_end(self, run: Run) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()


def _beginning(run: Run) -> str:
    config = run.config
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else str(run.device)
    device += f" in {run.ranks.world} processes" if run.ranks.world > 1 else ""
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    begun = f" from step {run.step} on" if run.step else ""
    return (
        f"{config.model.name or 'a model'} ({parameters / 1e6:.2f} M parameters) on {device}, {config.precision}, "
        f"{_count(torch.get_num_threads(), 'thread')}: {len(run.train_images):,} training images of "
        f"{len(run.train_images.classes)} classes, {_count(run.total_steps, 'step')} of "
        f"{_count(config.batch_size, 'image')} in {_count(config.epochs, 'epoch')}{begun}, "
        f"{_count(len(run.val), 'batch', 'batches')} to validate"
    )


def _few_steps(run: Run) -> str:
    size, images = run.config.batch_size, len(run.train_images)
    left = images - run.steps_per_epoch * size
    fewer = max(images // FEW_STEPS, 1)
    return (
        f"{_count(images, 'training image')} make {_count(run.steps_per_epoch, 'step')} of {size} in an epoch"
        f"{f', {left} are left out of each' if left > 0 else ''}; a batch size of {min(fewer, size - 1)} would make "
        "more and smaller steps"
    )


def _count(number: int, one: str, more: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else more or f'{one}s'}"


def _open_bar(run: Run) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    epoch = TextColumn(f"epoch {{task.fields[epoch]}}/{run.config.epochs}")
    bar = Bar(
        epoch, BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"), console=Console(stderr=True)
    )
    bar.add_task("training", total=run.total_steps, completed=run.step, epoch=run.epoch + 1, figures="")
    bar.start()
    return bar


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
