"""Learning from a teacher: what it is, where it comes from, and the loss against its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanformer.checkpoints import files, runs
from leanformer.checkpoints.strict import load_strict
from leanformer.config import register_config
from leanformer.errors import CheckpointError, ConfigError, suggestion
from leanformer.models import ImageClassifier, Preprocess, list_models
from leanformer.zoo import resolve, timm_hub


@register_config("distill")
class Distill:
    """A trained model whose scores are learned beside the labels (https://arxiv.org/abs/2012.12877).

    A model with a second classifier learns from the teacher with that one alone, the published form of DeiT and
    SwiftFormer; any other with its only one.
    """

    teacher: str
    """A run directory, a registered name, or a name of timm's such as `timm/regnety_160.deit_in1k`."""
    weights: str | None = None
    """A file with the teacher's weights, where they cannot be fetched."""
    target: Literal["hard", "soft"] = "hard"
    """Its most probable class, or all of its scores."""
    share: float = 0.5
    """Of this loss in the sum with that of the labels."""
    temperature: float = 1.0
    """Divides both scores of the soft target."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share must be in (0, 1], got {self.share}")
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be positive, got {self.temperature}")
        if self.target not in ("hard", "soft"):
            raise ConfigError(f"target must be 'hard' or 'soft', got {self.target!r}")

    def loss(self, scores: Tensor, taught: Tensor) -> Tensor:
        """The loss of scores (B, C) against a teacher's, not yet weighted."""
        if self.target == "hard":
            return F.cross_entropy(scores, taught.argmax(dim=1))
        t = self.temperature
        ours, theirs = (F.log_softmax(x / t, dim=1) for x in (scores, taught))
        return F.kl_div(ours, theirs, reduction="sum", log_target=True) * t**2 / scores.numel()


class Teacher(nn.Module):
    """A model that is never trained, for images that were prepared for another one."""

    shift: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module, own: Preprocess, given: Preprocess) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.same = (own.mean, own.std) == (given.mean, given.std)
        mean, std, own_mean, own_std = (
            torch.tensor(x)[:, None, None] for x in (given.mean, given.std, own.mean, own.std)
        )
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, num_classes) of images (B, 3, H, W), normalized for the student."""
        self.model.eval()
        return self.model(images if self.same else images * self.scale + self.shift).float()


def build_teacher(distill: Distill, classes: tuple[str, ...], preprocess: Preprocess) -> Teacher:
    """The teacher of `distill`.

    Args:
        classes: those of the student.
        preprocess: how the student's images are prepared.

    Raises:
        ConfigError: if there is no such model, or it tells other classes apart.
        CheckpointError: if its weights cannot be read or fetched.
    """
    name = distill.teacher
    if resolve.kind_of(name) == "folder":
        model = runs.load(name)
    elif name.partition(".")[0] in list_models():
        model = resolve.load_pretrained(resolve.find_pretrained(name, distill.weights), resolve.find_config(name))
    else:
        model = _timm_teacher(name, distill.weights, len(classes))
    own = _preprocess(model)
    names = getattr(model, "classes", None)
    if names is not None and set(names) == set(classes) and names != classes:
        raise ConfigError(f"the teacher {name} has the classes of the data in another order")
    teacher = Teacher(model, own, preprocess)
    count = teacher(torch.zeros(1, 3, *preprocess.image_size)).shape[1]
    if count != len(classes):
        raise ConfigError(f"the teacher {name} tells {count} classes apart, the data has {len(classes)}")
    return teacher


def _timm_teacher(name: str, weights: str | None, num_classes: int) -> nn.Module:
    """A model of timm, with weights of its own or those of a file for the classes of the data."""
    import timm

    short = name.removeprefix(timm_hub.PREFIX)
    if not timm.is_model(short):
        known = [*list_models(), *timm.list_models()]
        raise ConfigError(f"no teacher is called {name!r}{suggestion(short, known)}; a run directory would do too")
    if weights is None:
        try:
            model = timm.create_model(short, pretrained=True)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"the weights of the teacher {name} could not be fetched ({error}); get them where there is a network "
                "and name the file: Distill(teacher=..., weights=FILE)"
            ) from error
    else:
        model = timm.create_model(short, num_classes=num_classes)
        load_strict(model, files.read_weights(Path(weights)), source=weights)
    return model


def _preprocess(model: Any) -> Preprocess:
    """How images are normalized for one of our models, or one of timm's."""
    if isinstance(model, ImageClassifier):
        return model.preprocess
    return Preprocess(mean=tuple(model.pretrained_cfg["mean"]), std=tuple(model.pretrained_cfg["std"]))
