"""Test-time augmentation: several views of an image, whose scores are averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from leanformer.config import register_config
from leanformer.errors import ConfigError


@register_config("views")
class Views:
    """Which views of an image a model is shown when it is evaluated."""

    flip: bool = True
    """The mirrored image too."""
    crops: int = 1
    """1: the whole image; 5: it, and its four corners at `corner` of the side, enlarged."""
    corner: float = 0.875
    """Share of the side that a corner crop keeps."""

    def __post_init__(self) -> None:
        if self.crops not in (1, 5):
            raise ConfigError(f"crops must be 1 or 5, got {self.crops}")
        if not 0 < self.corner <= 1:
            raise ConfigError(f"corner must be above 0 and at most 1, got {self.corner}")


NAMED = {"flip": Views(), "five": Views(flip=False, crops=5), "ten": Views(crops=5)}
"""The usual choices; ten are five crops and their mirror images."""


def views_of(images: Tensor, views: Views) -> Tensor:
    """All views of a batch (B, C, H, W) of prepared images: (V, B, C, H, W), the image itself first."""
    shown = [images]
    if views.crops == 5:
        height, width = images.shape[-2:]
        rows, columns = max(round(height * views.corner), 1), max(round(width * views.corner), 1)
        for top in (0, height - rows):
            for left in (0, width - columns):
                crop = images[..., top : top + rows, left : left + columns]
                shown.append(F.interpolate(crop, (height, width), mode="bilinear", antialias=True))
    if views.flip:
        shown += [view.flip(-1) for view in shown]
    return torch.stack(shown)


def averaged(model: Callable[[Tensor], Tensor], images: Tensor, views: Views, independent: bool = False) -> Tensor:
    """Scores (B, num_classes) whose probabilities are the means over the views of images (B, C, H, W).

    Args:
        independent: whether each class is answered by itself, as for images of several.
    """
    scores = torch.stack([model(view).float() for view in views_of(images, views)])
    if independent:
        return F.logsigmoid(scores).logsumexp(dim=0) - F.logsigmoid(-scores).logsumexp(dim=0)
    return scores.log_softmax(dim=-1).logsumexp(dim=0) - torch.tensor(float(len(scores))).log()
