"""What happens around the steps of the loop: scheduled values, the averaged weights, the log, checkpoints."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

import torch
from torch import nn

from leanformer.checkpoints import files
from leanformer.errors import ConfigError, TrainingError, suggestion
from leanformer.layers.branch import DropPath
from leanformer.training.optimizers import scale_groups
from leanformer.training.parallel import local

if TYPE_CHECKING:
    from leanformer.tasks import Metrics, MultiLabelMetrics
    from leanformer.training.config import Scheduled
    from leanformer.training.state import Run

log = logging.getLogger(__name__)

OF_OPTIMIZER = ("lr", "weight_decay")
DROP_PATH = "drop_path"


class Callback:
    """Base with empty bodies. Steps are optimizer steps, counted from 0. Every rank of a run has its own."""

    first_rank_alone: ClassVar[bool] = False
    """Whether only the first rank, which writes, needs it."""

    def on_start(self, run: Run) -> None:
        """Before the first step, of a resumed run too."""

    def on_step(self, run: Run, step: int) -> None:
        """Before the forward pass of step `step`."""

    def after_step(self, run: Run, step: int) -> None:
        """After the weights were updated by step `step`; `run.last` says how it went."""

    def on_epoch(self, run: Run, epoch: int) -> None:
        """After epoch `epoch` (counted from 0) and its evaluation."""

    def on_rollback(self, run: Run) -> None:
        """After the run went back to an earlier checkpoint, and knows why in `run.trouble`."""

    def on_end(self, run: Run) -> None:
        """When the loop is left, whatever the reason."""


class SetScheduled(Callback):
    """Writes the value of a schedule where it belongs, before each step."""

    def __init__(self, scheduled: Scheduled) -> None:
        self.what = scheduled.what
        self.schedule = scheduled.schedule
        self.modules: list[nn.Module] = []
        self.drop_paths: list[tuple[DropPath, float]] = []

    def on_start(self, run: Run) -> None:
        """Collect the modules that take the value."""
        models = (run.model,) if run.ema is None else (run.model, run.ema)
        self.modules = [module for model in models for module in scheduled_modules(model).get(self.what, [])]
        if self.what == DROP_PATH:
            self.drop_paths = [(module, module.rate) for module in run.model.modules() if isinstance(module, DropPath)]

    def on_step(self, run: Run, step: int) -> None:
        """Write the value of `step`."""
        value = self.schedule(step, run.total_steps, run.config.epochs)
        run.values[self.what] = value
        if self.what in OF_OPTIMIZER:
            lowered = run.trouble.rate_factor if self.what == "lr" else 1.0
            scale_groups(run.optimizer, self.what, value * lowered)
        for module, rate in self.drop_paths:
            module.rate = rate * value
        _write(self.modules, value)


def scheduled_modules(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules that declare themselves `scheduled`, by what they declare."""
    found: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        what = getattr(module, "scheduled", None)
        if isinstance(what, str):
            found.setdefault(what, []).append(module)
    return found


def settle(model: nn.Module, schedules: Sequence[Scheduled], total: int, epochs: int) -> None:
    """Give the modules of a model that was trained for `total` steps the values at which their schedules end."""
    for scheduled in schedules:
        _write(scheduled_modules(model).get(scheduled.what, []), scheduled.schedule(total, total, epochs))


def _write(modules: Sequence[nn.Module], value: float) -> None:
    for module in modules:
        module.set_scheduled(value)  # type: ignore[operator]


def check_schedules(model: nn.Module, schedules: Sequence[Scheduled]) -> None:
    """Every schedule must drive something, and everything that is scheduled must be driven.

    Raises:
        ConfigError: naming what is not, and what the model has.
    """
    takers = scheduled_modules(model)
    names = [*OF_OPTIMIZER, DROP_PATH, *takers]
    driven = [scheduled.what for scheduled in schedules]
    for what in driven:
        if what not in names:
            raise ConfigError(
                f"nothing in the model follows the schedule {what!r}{suggestion(what, names)}; "
                f"it has {', '.join(names)}"
            )
    for what, modules in takers.items():
        if what not in driven:
            raise ConfigError(
                f"{len(modules)} modules of the model follow {what!r}, but no schedule drives it; add "
                f"Scheduled(what={what!r}, schedule=...) to schedules"
            )


class Ema(Callback):
    """Moves the averaged copy of the model, `run.ema`, towards it. The first step copies everything.

    Floating-point parameters and buffers are averaged. Integers are copied, and so are buffers without an axis, which
    schedules write.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay

    @torch.no_grad()
    def after_step(self, run: Run, step: int) -> None:
        """Update the copy."""
        assert run.ema is not None
        buffers = list(zip(run.ema.buffers(), run.model.buffers(), strict=True))
        averaged = [pair for pair in buffers if pair[0].is_floating_point() and pair[0].ndim]
        averaged += zip(run.ema.parameters(), run.model.parameters(), strict=True)
        share = 1.0 if step == 0 else 1.0 - self.decay
        torch._foreach_lerp_([local(mine) for mine, _ in averaged], [local(value) for _, value in averaged], share)  # type: ignore
        for mine, value in buffers:
            if not (mine.is_floating_point() and mine.ndim):
                mine.copy_(value)


class Logger(Callback):
    """Writes `metrics.jsonl`: a line for every `log_every` steps, every epoch and the end.

    `step` in it counts the steps done. A resumed run first drops the lines of steps that it will do again.
    """

    first_rank_alone = True

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._clock = self._waited = 0.0
        self._images = 0

    def on_start(self, run: Run) -> None:
        """Open the file behind the last line that still holds."""
        self.on_end(run)
        path = run.out / "metrics.jsonl"
        try:
            if path.exists():
                lines = _lines_up_to(path.read_text("utf-8", "replace"), run.step, run.epoch)
                files.write_text(path, "".join(f"{line}\n" for line in lines))
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise TrainingError(f"{path} cannot be opened: {error.strerror}; mend that and resume the run") from error
        self._clock, self._waited = time.perf_counter(), run.waited

    def after_step(self, run: Run, step: int) -> None:
        """Write a line at the end of each interval."""
        self._images += run.last.num_images
        if (step + 1) % run.config.log_every:
            return
        now = time.perf_counter()
        spent = max(now - self._clock, 1e-9)
        speed = {"images_per_second": round(self._images / spent, 1)}
        speed["data_wait"] = round((run.waited - self._waited) / spent, 3)
        self._clock, self._images, self._waited = now, 0, run.waited
        line = {"event": "step", "step": step + 1, "epoch": (step + 1) / run.steps_per_epoch}
        line |= {"loss": run.interval_loss.take(), "lr": run.optimizer.param_groups[0]["lr"]}
        line |= {what: value for what, value in run.values.items() if what not in OF_OPTIMIZER}
        if run.last.gradient_norm is not None:
            line["gradient_norm"] = run.last.gradient_norm
        self.write(line | speed)

    def on_epoch(self, run: Run, epoch: int) -> None:
        """Write the epoch's line."""
        line: dict[str, Any] = {"event": "epoch", "step": run.step, "epoch": epoch + 1}
        line |= {"train_loss": run.last_epoch_loss, "seconds": round(run.seconds, 1)}
        if run.evaluation is not None:
            line |= _figures(run.evaluation)
        if run.ema_evaluation is not None:
            line |= _figures(run.ema_evaluation, "ema_")
        self.write(line)
        self._clock, self._images, self._waited = time.perf_counter(), 0, run.waited

    def on_rollback(self, run: Run) -> None:
        """Drop the lines of the steps that are done again, and say so."""
        self.on_start(run)
        self._images = 0
        line = {"event": "rollback", "step": run.step, "epoch": run.step / run.steps_per_epoch}
        self.write(line | {"collapses": run.trouble.collapses, "rate_factor": run.trouble.rate_factor})

    def on_end(self, run: Run) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # it has failed to write the same before
                self._file.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line, so that it is in the file when this returns; a number that is not finite, which JSON has
        not, is null."""
        assert self._file is not None
        line = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in line.items()}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self._file.name} cannot be written: {error.strerror}; make room and resume the run"
            ) from error


def _figures(metrics: Metrics | MultiLabelMetrics, prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in metrics.summary().items() if name != "count"}


def _lines_up_to(text: str, step: int, epoch: int) -> list[str]:
    """The whole lines of the steps and epochs that a run resumed after so many of them will not do again."""
    kept = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
            holds = record["step"] <= step and record["event"] != "final"
            holds = holds and not (record["event"] == "epoch" and record["epoch"] > epoch)
        except (ValueError, LookupError, TypeError):
            continue  # cut while it was written, or damaged since
        if holds:
            kept.append(line)
    return kept


class Checkpointer(Callback):
    """Saves a checkpoint after every epoch, and every `every_steps` steps within it."""

    def __init__(self, every_steps: int | None) -> None:
        self.every_steps = every_steps

    def after_step(self, run: Run, step: int) -> None:
        """Save if the interval is over; the end of an epoch is saved after its evaluation."""
        done = step + 1
        if self.every_steps and done % self.every_steps == 0 and done % run.steps_per_epoch:
            run.save_checkpoint()

    def on_epoch(self, run: Run, epoch: int) -> None:
        """Save the end of the epoch."""
        run.save_checkpoint()
