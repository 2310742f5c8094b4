"""Training, top to bottom: set up, resume, steps, evaluation, finish, save.

Everything random is a pure function of (seed, epoch, image) or (seed, step), and every schedule one of the step. So a
checkpoint holds no generator, and a run that was killed and resumed ends with the weights that it would have had, bit
for bit on one machine's CPU. Several ranks go through all of it side by side; what one decides alone is in
`ranks.first`.
"""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leanformer import edits
from leanformer.checkpoints import runs
from leanformer.checkpoints.store import CheckpointStore
from leanformer.data import Augment, Batch, EvalBatches, LabeledImages, TrainBatches, open_data
from leanformer.data.labeled import has_several
from leanformer.models import ImageClassifier, Preprocess
from leanformer.tasks import Metrics, MultiLabelMetrics, build_teacher
from leanformer.training.batch_norms import synchronized
from leanformer.training.build import build_model, execute
from leanformer.training.callbacks import Callback, Checkpointer, Ema, Logger, SetScheduled, check_schedules, settle
from leanformer.training.config import Scheduled, TrainConfig
from leanformer.training.directory import STATES, check_present, claim, finished_summary, occupied, write_config
from leanformer.training.distributed import Ranks, join_ranks
from leanformer.training.guard import Diverged, WatchLoss, WatchMetric, roll_back
from leanformer.training.interrupt import Interrupted, StopRequest
from leanformer.training.objective import build_task
from leanformer.training.parallel import Parallel, choose_parallel
from leanformer.training.phases import TrainBatchNorms
from leanformer.training.profiling import Profile, waited_for
from leanformer.training.progress import Progress
from leanformer.training.randomness import choose_device, own_randomness
from leanformer.training.state import Run
from leanformer.training.step import train_mode, train_step

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run."""

    model: ImageClassifier
    """In eval mode; also saved in `out`."""
    out: Path
    metrics: dict[str, Any]
    """top1, top5, loss and count of the finished model; for images of several classes mAP, F1 and more."""
    evaluation: Metrics | MultiLabelMetrics | None
    """The same with every prediction; None if the run had been finished before."""
    steps: int
    seconds: float
    """Spent on training and evaluation, all resumptions together."""
    skipped: dict[str, str]
    """Name and error of the images that could not be read."""


def fit(
    config: TrainConfig,
    *,
    resume: bool = False,
    data: tuple[LabeledImages, LabeledImages] | None = None,
    callbacks: Sequence[Callback] = (),
    resume_command: str = "fit(config, resume=True)",
) -> Result:
    """Train a model as `config` says and save it in `config.out`.

    Args:
        resume: go on from the newest checkpoint in `config.out`, or from the start if there is none.
        data: images to train and to evaluate on, instead of what `config.data` names.
        callbacks: run after the loop's own.
        resume_command: what a message tells the user to type after an interruption.

    Raises:
        ConfigError, DataError: before anything is written, if the run cannot be, or not be resumed with this data.
        TrainingError: if the loss is no longer finite.
        Interrupted: after Ctrl-C or SIGTERM, when the run has been saved.
    """
    with ExitStack() as stack:
        ranks = stack.enter_context(join_ranks())
        resume = resume or ranks.restarts > 0
        if ranks.first(lambda: claim(config, resume)):
            return ranks.first(lambda: _finished(config))
        device = choose_device(config.device)
        stop = stack.enter_context(StopRequest())
        stack.enter_context(own_randomness(config.seed, device))
        parallel = choose_parallel(config, ranks, device)
        run = ranks.together(lambda: _set_up(config, device, data, parallel))
        run.stop, run.resume_command = stop, resume_command
        ranks.first(lambda: _move_in(config, resume, stack))
        if resume:
            _resume(run)
        parallel.start(run.model, config.distribution.batch_norm, stack)
        logger = Logger()
        hooks = [*_hooks(config), logger, Progress(), Checkpointer(config.checkpoint_every_steps), *callbacks]
        hooks = [hook for hook in hooks if ranks.is_first or not hook.first_rank_alone]
        for hook in hooks:
            stack.callback(hook.on_end, run)
            hook.on_start(run)

        if config.guard is not None and ranks.first(lambda: run.store.load_latest() is None):
            run.save_checkpoint()  # where to go back to
        while not run.done:
            try:
                _train_epoch(run, hooks)
            except Diverged as error:
                roll_back(run, hooks, error)
                continue
            _end_epoch(run, hooks)
            if ranks.any(stop.requested) and not run.done:
                raise _interrupted(run)
        model, metrics = _finish(run)
        line = {"event": "final", "step": run.step, "epoch": run.epoch, **metrics.summary()}
        ranks.first(lambda: logger.write(line))
        return _save(run, model, metrics)


def _move_in(config: TrainConfig, resume: bool, stack: ExitStack) -> None:
    """Hold the run's directory until the stack is left, and leave the config there."""
    stack.enter_context(occupied(config.out))
    claim(config, resume)  # another process may have been faster
    write_config(config)


def _set_up(
    config: TrainConfig, device: torch.device, data: tuple[LabeledImages, LabeledImages] | None, parallel: Parallel
) -> Run:
    """Everything the loop needs, built and checked; nothing is written yet, and nothing exchanged."""
    train, val = data or tuple(open_data(config.data, side, config.data_options) for side in ("train", "val"))
    model = build_model(config.model, train.classes, config.preprocess).to(device)
    model.multi_label = has_several(train)
    network = execute(model, config.execution)
    check_schedules(model, _schedules(config))
    _rehearse_finish(config, model)
    teacher = None
    if config.distill is not None:
        teacher = build_teacher(config.distill, train.classes, model.preprocess).to(device)
        model.head.separate = True  # a second classifier, where there is one, learns from the teacher
    ema = None if config.ema is None else copy.deepcopy(model).eval().requires_grad_(False)
    batches = _train_batches(config, train, model.preprocess, config.augment, parallel.ranks)
    for placed in (model, ema):
        if placed is not None:
            parallel.place(placed)
    val_batch_size = max(config.batch_size // parallel.ranks.world, 1)
    return Run(
        config=config,
        model=model,
        network=network,
        task=build_task(config, train, teacher, device),
        optimizer=config.optimizer.build(model),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        device=device,
        train_images=train,
        val_images=val,
        train=batches,
        val=EvalBatches(val, model.preprocess, val_batch_size, config.workers, parallel.ranks.share),
        store=CheckpointStore(config.out / STATES, keep=2),
        out=config.out,
        ema=ema,
        ranks=parallel.ranks,
        parallel=parallel,
    )


def _train_batches(
    config: TrainConfig, images: LabeledImages, preprocess: Preprocess, augment: Augment | None, ranks: Ranks
) -> TrainBatches:
    """This rank's share of the training batches; where they are mixed it has both images of each pair."""
    how = (config.batch_size, config.seed, config.workers, config.sampling)
    return TrainBatches(images, preprocess, augment, *how, share=ranks.share, mirrored=config.mixing is not None)


def _hooks(config: TrainConfig) -> list[Callback]:
    """What drives, averages and watches a run, in this order."""
    hooks: list[Callback] = [Profile()] if config.profile else []
    hooks += [SetScheduled(item) for item in _schedules(config)]
    if config.batch_norm_phase is not None:
        hooks.append(TrainBatchNorms(config.batch_norm_phase))
    if config.guard is not None:
        hooks.append(WatchLoss(config.guard))
    if config.ema is not None:
        hooks.append(Ema(config.ema))
    if config.early_stopping is not None:
        hooks.append(WatchMetric(config.early_stopping))
    return hooks


def _rehearse_finish(config: TrainConfig, model: ImageClassifier) -> None:
    """Apply the finishing edits to a copy as training will leave it: one that refuses is to do so before training."""
    twin = copy.deepcopy(model).eval()
    settle(twin, config.schedules, config.epochs, config.epochs)
    edits.apply(twin, *(item for item in config.finish if isinstance(item, edits.Edit)))


def _schedules(config: TrainConfig) -> list[Scheduled]:
    return [Scheduled(what="lr", schedule=config.lr), *config.schedules]


def _resume(run: Run) -> None:
    if not run.load_checkpoint():
        log.warning("%s holds no checkpoint; starting from the first step", run.out)
        return
    log.info("resumed %s after step %d of %d", run.out, run.step, run.total_steps)


def _train_epoch(run: Run, hooks: Sequence[Callback]) -> None:
    """The steps of the present epoch that have not been done."""
    train_mode(run.model)
    start = time.perf_counter()
    for batch in waited_for(run, run.train.batches(run.epoch, run.step - run.epoch * run.steps_per_epoch)):
        run.note_skipped(batch.skipped)
        step = run.step
        for hook in hooks:
            hook.on_step(run, step)
        run.last = train_step(run, batch)
        run.interval_loss.add(run.last.loss)
        run.epoch_loss.add(run.last.loss)
        run.step += 1
        now = time.perf_counter()
        run.seconds, start = run.seconds + now - start, now
        for hook in hooks:
            hook.after_step(run, step)
        if run.last.stop or _stops_alone(run):
            run.save_checkpoint()
            raise _interrupted(run)


def _end_epoch(run: Run, hooks: Sequence[Callback]) -> None:
    """Evaluate, if this epoch is to be, and tell everyone."""
    start = time.perf_counter()
    epoch, every = run.epoch, run.config.evaluate_every
    run.evaluation = run.ema_evaluation = None
    if every and ((epoch + 1) % every == 0 or epoch + 1 == run.config.epochs):
        try:
            run.evaluation = _evaluate(run, run.model)
            run.ema_evaluation = _evaluate(run, run.ema) if run.ema is not None else None
        except Interrupted:
            run.save_checkpoint()
            raise
    run.epoch += 1
    run.last_epoch_loss = run.epoch_loss.take()
    run.seconds += time.perf_counter() - start
    for hook in hooks:
        hook.on_epoch(run, epoch)


def _evaluate(run: Run, model: ImageClassifier) -> Metrics | MultiLabelMetrics:
    batches = run.parallel.in_step(model, run.val)
    metrics = run.task.evaluate(model, _unless_stopped(run, batches), run.ranks.gather)
    run.note_skipped(metrics.skipped)
    return metrics


def _unless_stopped(run: Run, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches until the run is asked to stop: what is done with them is done again when it goes on. Ranks do to the
    end what they do together."""
    for batch in batches:
        if _stops_alone(run):
            raise _interrupted(run)
        yield batch


def _stops_alone(run: Run) -> bool:
    """Whether to stop without asking the other ranks: there are none."""
    return run.stop.requested and run.ranks.world == 1


def _finish(run: Run) -> tuple[ImageClassifier, Metrics | MultiLabelMetrics]:
    """The finished model, in eval mode, and how it does."""
    start = time.perf_counter()
    model = run.parallel.gathered(run.model if run.ema is None else run.ema)
    model.head.separate = False
    for mine, theirs in zip(model.parameters(), run.model.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    settle(model, run.config.schedules, run.total_steps, run.config.epochs)
    for item in run.config.finish:
        if isinstance(item, edits.Edit):
            lines = [line for report in edits.apply(model, item) for line in report.lines]
        else:
            with synchronized(model, run.ranks):
                lines = [item.apply(model, _training_images(run, item.augmented))]
        for line in lines:
            log.info("%s", line)
    metrics = run.task.evaluate(model.eval(), _unless_stopped(run, run.val), run.ranks.gather)
    run.note_skipped(metrics.skipped)
    run.seconds += time.perf_counter() - start
    return model, metrics


def _training_images(run: Run, augmented: bool) -> Callable[[int], Iterator[Tensor]]:
    """What gives images of at most so many shuffled training batches, each time in another order."""
    epochs = itertools.count(run.config.epochs)
    augment = run.config.augment if augmented else None
    source = _train_batches(run.config, run.train_images, run.model.preprocess, augment, run.ranks)

    def batches(count: int) -> Iterator[Tensor]:
        for _, batch in zip(range(count), _unless_stopped(run, source.batches(next(epochs))), strict=False):
            yield batch.images.to(run.device)

    return batches


def _save(run: Run, model: ImageClassifier, metrics: Metrics | MultiLabelMetrics) -> Result:
    model.origin = {"from": "training", "config": "config.json", "started_from": run.config.model.weights}
    run.share_skipped()
    training = {"steps": run.step, "seconds": round(run.seconds, 1), "skipped": run.skipped}
    extra = {"metrics": metrics.summary(), "training": training}

    def write() -> None:
        check_present(run.out)
        runs.save(model, run.out, extra)

    run.ranks.first(write)
    return Result(
        model=model,
        out=run.out,
        metrics=metrics.summary(),
        evaluation=metrics,
        steps=run.step,
        seconds=run.seconds,
        skipped=run.skipped,
    )


def _finished(config: TrainConfig) -> Result:
    log.info("%s is finished; there is nothing to resume", config.out)
    summary = finished_summary(config)
    return Result(model=runs.load(config.out), out=config.out, evaluation=None, **summary)


def _interrupted(run: Run) -> Interrupted:
    return Interrupted(
        f"stopped after step {run.step} of {run.total_steps}, saved in {run.out}; go on with: {run.resume_command}"
    )
