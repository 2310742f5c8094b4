"""Training: a run as a value, and the loop that carries it out."""

from leanformer.training.config import ModelSpec, Scheduled, TrainConfig
from leanformer.training.finish import RecalibrateBatchNorm
from leanformer.training.groups import Groups
from leanformer.training.interrupt import Interrupted
from leanformer.training.optimizers import SGD, AdamW, TimmOptimizer
from leanformer.training.run import Result, fit
from leanformer.training.schedules import Constant, Cosine, Linear, Piecewise, WarmUp

__all__ = [
    "SGD",
    "AdamW",
    "Constant",
    "Cosine",
    "Groups",
    "Interrupted",
    "Linear",
    "ModelSpec",
    "Piecewise",
    "RecalibrateBatchNorm",
    "Result",
    "Scheduled",
    "TimmOptimizer",
    "TrainConfig",
    "WarmUp",
    "fit",
]
