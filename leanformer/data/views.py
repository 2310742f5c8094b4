"""Test-time augmentation: several views of an image, whose scores are averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
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


def views_of(images: Tensor, views: Views) -> Tensor:
    """All views of a batch (B, C, H, W) of prepared images: (V, B, C, H, W), the image itself first."""
    shown = [images]
    if views.crops == 5:
        height, width = images.shape[-2:]
        rows, columns = max(round(height * views.corner), 1), max(round(width * views.corner), 1)
        for top in (0, height - rows):
            for left in (0, width - columns):
                crop = images[..., top : top + rows, left : left + columns]
                shown.append(torch.nn.functional.interpolate(crop, (height, width), mode="bilinear", antialias=True))
    if views.flip:
        shown += [view.flip(-1) for view in shown]
    return torch.stack(shown)


def averaged(model: Callable[[Tensor], Tensor], images: Tensor, views: Views) -> Tensor:
    """The logarithm of the mean probabilities over the views, (B, num_classes) from (B, C, H, W): scores like any
    others."""
    scores = torch.stack([model(view).float() for view in views_of(images, views)])
    return scores.log_softmax(dim=-1).logsumexp(dim=0) - torch.tensor(float(len(scores))).log()
