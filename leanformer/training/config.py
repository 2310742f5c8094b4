"""A whole training run as one value, which `config.json` in the run's directory holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from leanformer.config import from_dict, register_config, to_dict
from leanformer.data.augment import Augment
from leanformer.data.mixing import Mixing
from leanformer.data.options import DataOptions
from leanformer.data.sampling import Sampling
from leanformer.edits import Edit
from leanformer.errors import ConfigError
from leanformer.models import BackboneConfig, Preprocess
from leanformer.tasks import Distill
from leanformer.training.clipping import Clip
from leanformer.training.finish import Finish
from leanformer.training.guard import EarlyStopping, Guard
from leanformer.training.optimizers import AdamW, OptimizerConfig
from leanformer.training.phases import BatchNormPhase
from leanformer.training.schedules import Cosine, Schedule, WarmUp


@register_config("model_spec")
class ModelSpec:
    """The model to train: a registered or timm `name` or a `config`; the number of classes comes from the data."""

    name: str | None = None
    config: BackboneConfig | None = None
    overrides: tuple[tuple[str, Any], ...] = ()
    """(field, value) pairs that replace fields of the config, such as `("image_size", 64)`."""
    weights: str | None = None
    """A run directory, a published file or the name of published weights (`deit_tiny.in1k`) to start from; a classifier
    for other classes starts afresh."""
    class_map: str | None = None
    """A file with one integer on each line: for each class of the data, in their order, the row of the classifier in
    `weights` that it starts from."""
    edits: tuple[Edit, ...] = ()
    """Edits before training."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that are not trained, such as `backbone.stem.*`; batch norms that they cover hold their
    statistics too."""

    def __post_init__(self) -> None:
        if (self.name is None) == (self.config is None):
            raise ConfigError(f"a model is given by its name or by a config, got {self.name!r} and {self.config!r}")
        if self.class_map is not None and self.weights is None:
            raise ConfigError(f"class_map {self.class_map!r} picks rows of the weights' classifier; give weights too")


@register_config("scheduled")
class Scheduled:
    """Something whose value follows a schedule: what modules declare as `scheduled`, or `lr` or `weight_decay`.

    Modules get the value itself; the learning rate and the weight decay of each group, and the rates of stochastic
    depth (`drop_path`), are multiplied by it.
    """

    what: str
    schedule: Schedule


@register_config("execution")
class Execution:
    """How a model is computed; what it learns is the same up to rounding."""

    compile: bool = False
    """Through `torch.compile`."""
    channels_last: bool = False
    """With the channels of images and convolutions innermost."""
    checkpointing: bool = False
    """Computing each block a second time in the backward pass, which saves memory."""


@register_config("distribution")
class Distribution:
    """How the processes that `torchrun` or Slurm starts share a run; for one process it means nothing."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Each process holds the whole model, or a share of every weight and of what the optimizer knows of it."""
    batch_norm: Literal["local", "sync"] = "local"
    """Whether batch norms normalize by the images of their process, running statistics being averaged after each step,
    or by those of all, as one process would."""

    def __post_init__(self) -> None:
        for name, choices in (("strategy", ("ddp", "fsdp")), ("batch_norm", ("local", "sync"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be {choices[0]!r} or {choices[1]!r}, got {getattr(self, name)!r}")


@register_config("train")
class TrainConfig:
    """Everything that decides how a run turns out, and a few things that do not (see `NOT_DECISIVE`)."""

    model: ModelSpec
    data: str = "garments"
    """A data set's name or a folder of images."""
    data_options: DataOptions = DataOptions()
    """What the files of the data do not say by themselves."""
    sampling: Sampling = Sampling()
    """What an epoch takes of the training images."""
    out: Path
    """The run's directory."""
    augment: Augment | None = Augment()
    preprocess: Preprocess | None = None
    """How images are prepared; its image size follows the model. None: as the model's weights want it."""
    optimizer: OptimizerConfig = AdamW()
    lr: Schedule = WarmUp(schedule=Cosine(), fraction=0.05)
    """Multiplies the optimizer's learning rate."""
    epochs: int = 300
    batch_size: int = 128
    """Images in one optimizer step."""
    accumulate: int = 1
    """Parts in which a batch passes through the model, to save memory."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    execution: Execution = Execution()
    distribution: Distribution = Distribution()
    clip: float | Clip | None = None
    """Largest norm of the gradient, or another way to keep it small."""
    ema: float | None = None
    """Decay of the averaged copy of the weights; with it, the copy is the result of the run."""
    loss: Literal["cross_entropy", "binary_cross_entropy"] | None = None
    """None: the binary one for images of several classes, else cross entropy."""
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    """What the classes count in the loss, one number for each; balanced: the rarer the more, so that all count
    alike."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes; images of several classes have none unless they are
    mixed."""
    mixing: Mixing | None = None
    """Mixup and CutMix."""
    distill: Distill | None = None
    """A teacher."""
    schedules: tuple[Scheduled, ...] = ()
    guard: Guard | None = None
    """Against a loss that collapses."""
    early_stopping: EarlyStopping | None = None
    batch_norm_phase: BatchNormPhase | None = None
    """Last epochs for batch norms alone."""
    finish: tuple[Finish | Edit, ...] = ()
    """What is done to the trained model before it is evaluated for the last time and saved."""
    seed: int = 0
    workers: int = 0
    """Processes that read images."""
    evaluate_every: int = 1
    """Epochs between evaluations; 0 evaluates the finished model alone."""
    checkpoint_every_steps: int | None = None
    """Optimizer steps between checkpoints, besides the one after each epoch."""
    log_every: int = 10
    """Optimizer steps between lines of `metrics.jsonl`."""
    profile: bool = False
    """Log where the time of each epoch goes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "log_every"):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("evaluate_every", "workers", "seed"):
            _check(self, name, getattr(self, name) >= 0, "0 or more")
        _check(self, "seed", self.seed < 2**63, "below 2**63")
        _check(self, "precision", self.precision in ("fp32", "bf16", "fp16"), "'fp32', 'bf16' or 'fp16'")
        losses = ("cross_entropy", "binary_cross_entropy", None)
        _check(self, "loss", self.loss in losses, "'cross_entropy', 'binary_cross_entropy' or None")
        _check_class_weights(self)
        even = self.mixing is None or self.batch_size % 2 == 0
        _check(self, "batch_size", even, "even, for images are mixed in pairs")
        _check(self, "device", self.device in ("auto", "cpu", "cuda"), "'auto', 'cpu' or 'cuda'")
        every = self.checkpoint_every_steps
        _check(self, "checkpoint_every_steps", every is None or every >= 1, "at least 1, or None")
        _check(self, "accumulate", self.accumulate <= self.batch_size, f"at most batch_size, {self.batch_size}")
        _check(self, "clip", not isinstance(self.clip, (int, float)) or self.clip > 0, "positive, or None")
        last = self.batch_norm_phase
        _check(self, "batch_norm_phase", last is None or last.epochs <= self.epochs, f"of at most {self.epochs} epochs")
        _check(self, "ema", self.ema is None or 0 < self.ema < 1, "between 0 and 1, or None")
        if self.early_stopping is not None and self.evaluate_every == 0:
            raise ConfigError(
                "early_stopping counts evaluations, and evaluate_every=0 leaves none; evaluate every epoch"
            )
        names = [scheduled.what for scheduled in self.schedules] + ["lr"]
        twice = sorted({name for name in names if names.count(name) > 1})
        if self.execution.compile and "drop_path" in names:
            raise ConfigError("a compiled model keeps its rates of stochastic depth; leave out compile or drop_path")
        if twice:
            where = " (the field lr is one of them)" if "lr" in twice else ""
            raise ConfigError(f"two schedules drive {', '.join(twice)}{where}; keep one")


NOT_DECISIVE = frozenset({"out", "workers", "checkpoint_every_steps", "device", "profile", "distribution"})
"""Fields that a resumed run may change."""


def _check(config: TrainConfig, name: str, fits: bool, wanted: str) -> None:
    if not fits:
        raise ConfigError(f"{name} must be {wanted}, got {getattr(config, name)!r}")


def _check_class_weights(config: TrainConfig) -> None:
    weights = config.class_weights
    usable = not isinstance(weights, tuple) or (all(0 <= w < math.inf for w in weights) and sum(weights) > 0)
    _check(config, "class_weights", usable, "'balanced', numbers of 0 or more, or None")
    if weights == "balanced" and config.sampling.balanced:
        raise ConfigError("class_weights and sampling both balance the classes, which is once too often; keep one")


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for every decisive field in which two configs in their JSON form differ, as `path: saved -> now`.

    A field that the saved one lacks, since an earlier version wrote it, has its default.
    """
    saved = _with_defaults(saved)
    return [line for name in saved | now if name not in NOT_DECISIVE for line in _differ(name, saved, now)]


def _with_defaults(saved: dict[str, Any]) -> dict[str, Any]:
    try:
        return to_dict(from_dict(saved, TrainConfig))
    except ConfigError:  # of a later version, or edited: compared as it stands
        return saved


def _differ(path: str, saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    name = path.rpartition(".")[2]
    before, after = saved.get(name), now.get(name)
    if isinstance(before, dict) and isinstance(after, dict):
        return [line for inner in before | after for line in _differ(f"{path}.{inner}", before, after)]
    return [] if before == after else [f"{path}: {before!r} -> {after!r}"]
