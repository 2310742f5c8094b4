"""The state of a run while it trains, and how it goes into a checkpoint and comes back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leanformer.checkpoints.store import CheckpointStore
from leanformer.config import to_dict
from leanformer.data import EvalBatches, LabeledImages, TrainBatches
from leanformer.data.stored import fingerprint
from leanformer.errors import CheckpointError, DataError
from leanformer.models import ImageClassifier
from leanformer.tasks import Classification, Metrics, MultiLabelMetrics
from leanformer.training.config import TrainConfig
from leanformer.training.directory import check_present
from leanformer.training.distributed import Ranks
from leanformer.training.interrupt import StopRequest
from leanformer.training.optimizers import load_optimizer_state, optimizer_state
from leanformer.training.parallel import Parallel, collected, laid_out_like

log = logging.getLogger(__name__)

STORED = ("epoch", "seconds", "optimizer", "scaler", "interval_loss", "epoch_loss", "skipped", "trouble", "data")
"""What a checkpoint holds beside tensors."""


@dataclass
class Mean:
    """A running mean, emptied when it is taken."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Count one value."""
        self.total += value
        self.count += 1

    def take(self) -> float:
        """The mean of the values since the last call."""
        mean = self.total / max(self.count, 1)
        self.total, self.count = 0.0, 0
        return mean


@dataclass(frozen=True)
class StepResult:
    """How one optimizer step went."""

    loss: float = 0.0
    num_images: int = 0
    gradient_norm: float | None = None
    """Before clipping; None if the gradient is not clipped."""
    stop: bool = False
    """Whether a rank has been asked to stop."""


@dataclass
class Trouble:
    """What the guard and early stopping remember of a run."""

    collapses: int = 0
    """Times that it went back."""
    rate_factor: float = 1.0
    """Multiplies the learning rate since."""
    usual_loss: float = 0.0
    steps: int = 0
    """That the usual loss is a mean of."""
    best: float | None = None
    """The best evaluation; more is better."""
    stale: int = 0
    """Evaluations since."""


@dataclass(kw_only=True)
class Run:
    """What the loop and its callbacks share."""

    config: TrainConfig
    model: ImageClassifier
    network: nn.Module
    """The model as it is trained: itself, or what computes the same faster."""
    task: Classification
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    train_images: LabeledImages
    val_images: LabeledImages
    train: TrainBatches
    val: EvalBatches
    store: CheckpointStore
    out: Path
    ema: ImageClassifier | None = None
    """The averaged copy of the model."""
    ranks: Ranks = field(default_factory=Ranks)
    parallel: Parallel = field(default_factory=lambda: Parallel(Ranks()))
    """How the ranks share the model."""
    stop: StopRequest = field(default_factory=StopRequest)
    resume_command: str = ""
    """What a message tells the user to type after an interruption."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Epochs done, evaluation included."""
    seconds: float = 0.0
    """Time spent training and evaluating, over all resumptions."""
    waited: float = 0.0
    """Time that training spent waiting for batches, since this process began."""
    start_up: float = 0.0
    """Time until workers had begun and made the first batch, which is not in `waited`."""
    values: dict[str, float] = field(default_factory=dict)
    """The present value of everything that follows a schedule."""
    last: StepResult = StepResult()
    interval_loss: Mean = field(default_factory=Mean)
    epoch_loss: Mean = field(default_factory=Mean)
    last_epoch_loss: float = 0.0
    evaluation: Metrics | MultiLabelMetrics | None = None
    """Of the model, after the latest epoch; None if that epoch is not evaluated."""
    ema_evaluation: Metrics | MultiLabelMetrics | None = None
    trouble: Trouble = field(default_factory=Trouble)
    stopped: bool = False
    """Whether training ends before its last epoch."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Name and error of the images that could not be read."""
    _tensors: dict[str, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.train.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether there is no epoch left to train."""
        return self.stopped or self.epoch >= self.config.epochs

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    def save_checkpoint(self) -> None:
        """Write everything that training from here on depends on: all ranks call it, the first one writes."""
        self.share_skipped()
        moments, numbers = optimizer_state(self.optimizer)
        tensors = _prefixed("model", self.model.state_dict()) | _prefixed("optimizer", moments)
        if self.ema is not None:
            tensors |= _prefixed("ema", self.ema.state_dict())
        tensors = collected(tensors, keep=self.ranks.is_first)
        if not self.ranks.is_first:
            return
        check_present(self.out)
        meta = {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "optimizer": numbers,
            "scaler": self.scaler.state_dict(),
            "interval_loss": [self.interval_loss.total, self.interval_loss.count],
            "epoch_loss": [self.epoch_loss.total, self.epoch_loss.count],
            "skipped": self.skipped,
            "trouble": asdict(self.trouble),
            "data": self._data(),
            "fingerprints": self._fingerprints,
            "config": to_dict(self.config),
        }
        self.store.save(self.step, tensors, meta)

    def load_checkpoint(self, before: int | None = None) -> bool:
        """Go back to the newest state that is whole, as the first rank finds it; false if there is none.

        Args:
            before: a step; only states of earlier ones are taken.

        Raises:
            CheckpointError, DataError: as `restore`, or if there are states and none of them is whole.
        """
        found = self.ranks.first(lambda: self._found(before))
        if found is None:
            return False
        step, meta = found
        tensors, self._tensors = self._tensors, None
        self.restore(step, self.ranks.broadcast(tensors), meta)
        return True

    def _found(self, before: int | None) -> tuple[int, dict[str, Any]] | None:
        """Step and description of the newest state, whose tensors are kept for the moment."""
        found = self.store.load_latest(before)
        self._tensors = None if found is None else found[1]
        return None if found is None else (found[0], found[2])

    def restore(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take over what `save_checkpoint` wrote.

        Raises:
            CheckpointError: if another version of leanformer wrote it.
            DataError: if the images are no longer those that it trained on.
        """
        missing = [name for name in STORED if name not in meta]
        if missing:
            raise CheckpointError(
                f"the training state of step {step} in {self.out} lacks {', '.join(missing)}: another version of "
                "leanformer wrote it; finish the run with that version, or start a new one with another --out"
            )
        self._check_data(step, meta)
        _load(self.model, _below("model", tensors))
        if self.ema is not None:
            _load(self.ema, _below("ema", tensors))
        moments = _laid_out(_below("optimizer", tensors), self.model)
        load_optimizer_state(self.optimizer, moments, meta["optimizer"])
        self.scaler.load_state_dict(meta["scaler"])
        self.step, self.epoch, self.seconds = step, meta["epoch"], meta["seconds"]
        self.interval_loss, self.epoch_loss = Mean(*meta["interval_loss"]), Mean(*meta["epoch_loss"])
        self.skipped = dict(meta["skipped"])
        self.trouble = Trouble(**meta["trouble"])
        stopping = self.config.early_stopping
        self.stopped = stopping is not None and self.trouble.stale >= stopping.patience

    def note_skipped(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Remember images that could not be read, and say so of those that are new."""
        for name, error in skipped:
            if name not in self.skipped:
                self.skipped[name] = error
                log.warning("skipped: %s", error)

    def share_skipped(self) -> None:
        """Tell all ranks what each of them could not read."""
        for theirs in self.ranks.gather(self.skipped):
            self.note_skipped(theirs.items())

    def _check_data(self, step: int, meta: Mapping[str, Any]) -> None:
        """Refuse other images than those that the state of `step` comes from, as far as it says which these were."""
        way_out = "put it back as it was, or start a new run with another --out"
        if meta["data"] != self._data():
            (had, before), (has, now) = meta["data"], self._data()
            raise DataError(
                f"the training data has changed since step {step}: {had} images of {len(before)} classes were there, "
                f"now {has} of {len(now)}; {way_out}"
            )
        for side, now in self._fingerprints.items():
            before = meta.get("fingerprints", {}).get(side)  # earlier versions kept none
            if None not in (before, now) and before != now:
                raise DataError(
                    f"the {side} data of {self.config.data} has changed since step {step}: its images have other "
                    f"paths, labels or sizes than they had; {way_out}"
                )

    def _data(self) -> list[Any]:
        """What the order of the images and the shape of the classifier follow from."""
        return [len(self.train_images), list(self.train_images.classes)]

    @cached_property
    def _fingerprints(self) -> dict[str, str | None]:
        """Of the images of both sides as they were when this process began."""
        return {"training": fingerprint(self.train_images), "validation": fingerprint(self.val_images)}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    model.load_state_dict({n: laid_out_like(value, own[n]) if n in own else value for n, value in tensors.items()})


def _laid_out(moments: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's tensors, each as the parameter of which it has the shape and the name."""
    parameters = dict(model.named_parameters())
    laid_out = {}
    for name, value in moments.items():
        parameter = parameters.get(name.rpartition(".")[0])
        fits = parameter is not None and parameter.shape == value.shape
        laid_out[name] = laid_out_like(value, parameter) if parameter is not None and fits else value
    return laid_out
