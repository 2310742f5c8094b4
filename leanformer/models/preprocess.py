"""How an image becomes a model's input: a value that travels with the model."""

from __future__ import annotations

from typing import Literal

from leanformer.config import register_config
from leanformer.errors import ConfigError


@register_config("preprocess")
class Preprocess:
    """Resize, centre crop and normalisation before a model."""

    image_size: tuple[int, int] = (224, 224)
    """(height, width) of the result, in pixels."""
    crop: float = 0.875
    """Share of the resized side that the centre crop keeps; 1 resizes straight to `image_size`."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fit: Literal["shorter", "squash"] = "shorter"
    """"shorter" keeps the aspect ratio and crops; "squash" resizes both sides alike and loses it."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not 0.0 < self.crop <= 1.0:
            raise ConfigError(f"crop must be in (0, 1], got {self.crop}")
        if min(self.image_size) < 1:
            raise ConfigError(f"image_size must be positive, got {self.image_size}")
        if min(self.std) <= 0.0:
            raise ConfigError(f"std must be positive, got {self.std}")
