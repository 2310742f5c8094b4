"""Names of recipes, and the recipe that any model gets when nothing else is asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from leanformer import edits
from leanformer.config import replace_at
from leanformer.data.imagenet import KAGGLE, NUM_CLASSES, WNID
from leanformer.errors import ConfigError, suggestion
from leanformer.models import ImageClassifier
from leanformer.recipes.dilution import with_removal
from leanformer.training import (
    AdamW,
    Linear,
    ModelSpec,
    RecalibrateBatchNorm,
    Scheduled,
    TrainConfig,
)
from leanformer.zoo import list_models
from leanformer.zoo.resolve import find_config, kind_of

log = logging.getLogger(__name__)

Recipe = Callable[[Path], TrainConfig]

_RECIPES: dict[str, Recipe] = {}


def recipe(function: Recipe) -> Recipe:
    """Function decorator: the function, from the run's directory to its config, becomes a recipe under its own name."""
    name = function.__name__
    assert name not in _RECIPES, f"recipe {name!r} is registered twice"
    _RECIPES[name] = function
    return function


def list_recipes() -> list[str]:
    """The names of the recipes, sorted."""
    return sorted(_RECIPES)


def describe_recipe(name: str) -> str:
    """The first paragraph of what a recipe says of itself, as one line."""
    return " ".join((_RECIPES[name].__doc__ or "").partition("\n\n")[0].split())


def published_recipe(model: str) -> str | None:
    """The recipe by which a model was published on ImageNet-1k, if it is here."""
    name = f"{model}_in1k"
    return name if name in _RECIPES else None


def find_recipe(name: str, out: Path, data: str | None = None) -> TrainConfig:
    """The run that a recipe's or a model's name stands for.

    A model gets the default recipe, or on the thousand classes of ImageNet the one it was published with, where there
    is one. A name with a tag (`deit_tiny.in1k`) and one of timm's start from the weights that they name, any other from
    random ones.

    Args:
        data: a folder of images, if it is known yet.

    Raises:
        ConfigError: if there is neither, naming the nearest of both.
    """
    if name in _RECIPES:
        return _RECIPES[name](out)
    timm = kind_of(name) == "timm"
    if timm or name.partition(".")[0] in list_models():
        published = published_recipe(name)
        if published is not None and data is not None and holds_imagenet(data):
            log.info("%s on ImageNet: training by the recipe %s", name, published)
            return _RECIPES[published](out)
        return default_recipe(ModelSpec(name=name, weights=name if timm or "." in name else None), out)
    choices = [*_RECIPES, *list_models()]
    hint = suggestion(name, choices) or "; `leanformer list` shows models and recipes"
    raise ConfigError(f"unknown model or recipe {name!r}{hint}")


def holds_imagenet(data: str) -> bool:
    """Whether a folder holds the thousand classes of ImageNet-1k in `train/`, or where Kaggle puts them."""
    for train in (Path(data) / "train", Path(data) / KAGGLE / "train"):
        if train.is_dir():
            return sum(WNID.fullmatch(name) is not None for name in os.listdir(train)) == NUM_CLASSES
    return False


def default_recipe(model: ModelSpec, out: Path) -> TrainConfig:
    """A run that suits small data sets on small machines: AdamW, cosine with warm-up, light augmentation, clipping.

    A progressive norm gives its starting norm up over the first half of training, as SLAB advises: the schedule must
    end well before training does. Diluted attention fades out, and is removed. Batch statistics are recalibrated at the
    end.
    """
    progressive, batch_norms = _traits(model)
    schedule = Scheduled(what="norm_progress", schedule=Linear(start=1.0, end=0.0, until=0.5))
    config = TrainConfig(
        model=model,
        out=out,
        optimizer=AdamW(lr=2e-3, weight_decay=0.05),
        epochs=30,
        batch_size=32,
        clip=5.0,
        label_smoothing=0.1,
        schedules=(schedule,) if progressive else (),
        finish=(RecalibrateBatchNorm(batches=100),) if batch_norms else (),
    )
    return with_removal(config)


def _traits(model: ModelSpec) -> tuple[bool, bool]:
    """Whether the model, its edits applied, has progressive norms, and whether it has batch norms."""
    config = model.config if model.name is None else find_config(model.name)
    assert config is not None
    for field, value in model.overrides:
        config = replace_at(config, field, value)
    with torch.device("meta"):
        built = ImageClassifier(config)
        edits.replay(built, model.edits)
    modules = list(built.modules())
    progressive = any(getattr(module, "scheduled", None) == "norm_progress" for module in modules)
    return progressive, any(isinstance(module, _BatchNorm) for module in modules)
