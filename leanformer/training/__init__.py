"""Training: a run as a value, and the loop that carries it out."""

from leanformer.training.clipping import Clip
from leanformer.training.config import Distribution, Execution, ModelSpec, Scheduled, TrainConfig
from leanformer.training.finish import RecalibrateBatchNorm
from leanformer.training.groups import Groups
from leanformer.training.guard import EarlyStopping, Guard
from leanformer.training.interrupt import Interrupted
from leanformer.training.optimizers import SGD, AdamW, TimmOptimizer
from leanformer.training.phases import BatchNormPhase
from leanformer.training.run import Result, fit
from leanformer.training.schedules import Constant, CoolDown, Cosine, Lag, Linear, PerEpoch, Piecewise, Steps, WarmUp
from leanformer.training.tracking import Tracker

__all__ = [
    "SGD",
    "AdamW",
    "BatchNormPhase",
    "Clip",
    "Constant",
    "CoolDown",
    "Cosine",
    "Distribution",
    "EarlyStopping",
    "Execution",
    "Groups",
    "Guard",
    "Interrupted",
    "Lag",
    "Linear",
    "ModelSpec",
    "PerEpoch",
    "Piecewise",
    "RecalibrateBatchNorm",
    "Result",
    "Scheduled",
    "Steps",
    "TimmOptimizer",
    "Tracker",
    "TrainConfig",
    "WarmUp",
    "fit",
]
