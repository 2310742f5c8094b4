"""What ends or saves a run that goes wrong: a guard against a loss that collapses, and early stopping."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from leanformer.config import register_config
from leanformer.errors import ConfigError, TrainingError
from leanformer.training.callbacks import DROP_PATH, OF_OPTIMIZER, Callback

if TYPE_CHECKING:
    from leanformer.training.state import Run

log = logging.getLogger(__name__)

MEMORY = 0.98
"""Share of the usual loss that a step keeps."""


class Diverged(TrainingError):
    """The loss of a step is not finite, or has exploded."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@register_config("guard")
class Guard:
    """Where the loss is not finite or explodes, go back to the last checkpoint and go on at a lower rate."""

    tries: int = 3
    """Times that a run may go back."""
    factor: float = 0.5
    """Multiplies the learning rate each time."""
    explosion: float = 5.0
    """Times the usual loss, its running mean, at which it has exploded, if it is worse than that of guessing too: late
    in training a batch of hard images is as far from the mean."""
    after: int = 50
    """Steps before a loss counts as usual."""

    def __post_init__(self) -> None:
        if self.tries < 1 or self.after < 1:
            raise ConfigError(f"tries and after must be at least 1, got {self.tries} and {self.after}")
        if not 0 < self.factor < 1 or self.explosion <= 1:
            raise ConfigError(
                f"factor must be between 0 and 1 and explosion above 1, got {self.factor} and {self.explosion}"
            )


class WatchLoss(Callback):
    """Follows the usual loss, and stops a step that leaves it far behind."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.of_guessing = 0.0

    def on_start(self, run: Run) -> None:
        """Note the loss of a model that knows nothing."""
        single = run.task.loss == "cross_entropy"  # the binary loss is a mean over the classes
        self.of_guessing = math.log(len(run.train_images.classes) if single else 2)

    def after_step(self, run: Run, step: int) -> None:
        """Compare the step's loss with the usual one.

        Raises:
            Diverged: if it has exploded.
        """
        trouble, loss = run.trouble, run.last.loss
        limit = max(self.guard.explosion * trouble.usual_loss, self.of_guessing)
        if trouble.steps >= self.guard.after and loss > limit:
            raise Diverged(f"the loss of step {step} is {loss:.4g}, after a usual {trouble.usual_loss:.4g}", step)
        trouble.usual_loss = MEMORY * trouble.usual_loss + (1 - MEMORY) * loss if trouble.steps else loss
        trouble.steps += 1


def roll_back(run: Run, hooks: Sequence[Callback], error: Diverged) -> None:
    """Go back to the last checkpoint, which then knows of it, so that a resumed run goes on alike.

    A checkpoint of the very step holds the weights that its loss is of, and no rate would change that: then it is the
    one before, where there is one.

    Raises:
        TrainingError: without a guard, or if its tries are used up.
    """
    guard = run.config.guard
    if guard is None:
        raise error
    if run.trouble.collapses >= guard.tries:
        raise TrainingError(f"{error}; gave up after going back {guard.tries} times") from error
    collapses, factor = run.trouble.collapses + 1, run.trouble.rate_factor * guard.factor
    found = run.load_checkpoint(before=error.step) or run.load_checkpoint()
    assert found, "a guarded run saves its start"
    run.trouble.collapses, run.trouble.rate_factor = collapses, factor
    run.save_checkpoint()
    log.warning(
        "%s; back at step %d with the learning rate times %g (%d of %d)",
        error,
        run.step,
        factor,
        collapses,
        guard.tries,
    )
    for hook in hooks:
        hook.on_rollback(run)


@register_config("early_stopping")
class EarlyStopping:
    """End training when evaluations no longer get better. The result is the model as it is then.

    The averaged copy counts where there is one. While a progressive technique is on its way nothing is counted.
    """

    patience: int
    """Evaluations in a row that are not better than the best."""
    metric: Literal["top1", "loss"] = "top1"
    """For images of several classes, top1 is the mean average precision."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigError(f"patience must be at least 1, got {self.patience}")
        if self.metric not in ("top1", "loss"):
            raise ConfigError(f"metric must be 'top1' or 'loss', got {self.metric!r}")


class WatchMetric(Callback):
    """Counts the evaluations since the best."""

    def __init__(self, stopping: EarlyStopping) -> None:
        self.stopping = stopping

    def on_epoch(self, run: Run, epoch: int) -> None:
        """Compare this evaluation with the best, if the model has its final form."""
        metrics = run.ema_evaluation or run.evaluation
        if metrics is None or not _settled(run):
            return
        score = metrics.score if self.stopping.metric == "top1" else -metrics.loss
        trouble = run.trouble
        if not math.isnan(score) and (trouble.best is None or score > trouble.best):
            trouble.best, trouble.stale = score, 0
        else:
            trouble.stale += 1
        run.stopped = trouble.stale >= self.stopping.patience
        if run.stopped:
            log.info("no better %s in %d evaluations; training ends", self.stopping.metric, trouble.stale)


def _settled(run: Run) -> bool:
    """Whether every progressive technique has reached the value at which it ends."""
    last, total, epochs = run.step - 1, run.total_steps, run.config.epochs
    progressive = [scheduled for scheduled in run.config.schedules if scheduled.what not in (*OF_OPTIMIZER, DROP_PATH)]
    return all(s.schedule(last, total, epochs) == s.schedule(total, total, epochs) for s in progressive)
