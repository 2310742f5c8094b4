"""Tokens as images and back, without copying: an image made of tokens is in channels-last order."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from leanformer.ops.regions import shortfall


def to_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, H W, C) in row-major order as an image (B, C, H, W)."""
    # In this order a batch of one keeps the strides of a channels-last image; else convolutions copy it first.
    return x.unflatten(1, grid).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """An image (B, C, H, W) as tokens (B, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def pad_image(image: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) with zeros at the bottom and right until both sides are multiples of `multiple`."""
    below, right = (shortfall(side, multiple) for side in image.shape[2:])
    return F.pad(image, (0, right, 0, below)) if below or right else image
