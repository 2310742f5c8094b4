"""Models of timm, as timm computes them, to be measured beside ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from leanformer.errors import ConfigError


def has_timm_model(name: str) -> bool:
    """Whether timm knows a model of that name, with or without a tag of weights."""
    import timm

    return timm.is_model(name)


def build_timm_model(name: str, image_size: int | None = None) -> tuple[nn.Module, tuple[int, int]]:
    """The model with random weights, in eval mode, and the (height, width) of its images.

    Args:
        image_size: None for the model's own.

    Raises:
        ConfigError: if the model cannot take images of that size.
    """
    import timm

    own = timm.create_model(name, pretrained=False).eval()
    about: dict[str, Any] = own.pretrained_cfg  # type: ignore[assignment]
    _, height, width = about["input_size"]
    if image_size is None or (height, width) == (image_size, image_size):
        return own, (height, width)
    sized: dict[str, Any] = {"img_size": image_size} if about.get("fixed_input_size", False) else {}
    try:
        model = timm.create_model(name, pretrained=False, **sized).eval()
        with torch.inference_mode():
            model(torch.zeros(1, 3, image_size, image_size))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"{name} of timm takes no images of {image_size} x {image_size}: {error}") from error
    return model, (image_size, image_size)
