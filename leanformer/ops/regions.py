"""Cutting a token map into windows and joining them again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shortfall(side: int, size: int) -> int:
    """What `side` lacks to the next multiple of `size`. (Compilers that trace sizes fail on remainders of negative
    numbers.)"""
    return (size - side % size) % size


def pad_to_multiple(x: Tensor, size: tuple[int, int], value: Tensor | None = None) -> Tensor:
    """Pad a map (B, H, W, C) at the bottom and right until its sides are multiples of those of `size`.

    The new places hold zeros, or the vector `value` of shape (C,).
    """
    below, right = shortfall(x.shape[1], size[0]), shortfall(x.shape[2], size[1])
    if not below and not right:
        return x
    if value is None:
        return F.pad(x, (0, 0, 0, right, 0, below))
    batch, height, width, channels = x.shape
    x = torch.cat((x, value.to(x.dtype).expand(batch, height, right, channels)), dim=2)
    return torch.cat((x, value.to(x.dtype).expand(batch, below, width + right, channels)), dim=1)


def split_windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W, C) to (B W, h w, C), H and W being multiples of `size`, (h, w); windows and their tokens in row-major
    order."""
    batch, height, width, channels = x.shape
    rows, columns = size
    x = x.view(batch, height // rows, rows, width // columns, columns, channels)
    return x.transpose(2, 3).reshape(-1, rows * columns, channels)


def join_windows(x: Tensor, size: tuple[int, int], height: int, width: int) -> Tensor:
    """The inverse of `split_windows`: (B W, h w, C) back to (B, height, width, C)."""
    x = x.view(-1, height // size[0], width // size[1], *size, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


def shifted_window_mask(height: int, width: int, size: int, shift: int) -> Tensor:
    """The additive mask (W, size^2, size^2) of a map rolled by (-shift, -shift): -100 between tokens that were not
    neighbours.

    Swin (https://arxiv.org/abs/2103.14030, section 3.2). `height` and `width` are multiples of `size`.
    """

    def regions(length: int) -> Tensor:
        place = torch.arange(length)
        return (place >= length - size).int() + (place >= length - shift).int()

    labels = regions(height)[:, None] * 3 + regions(width)[None, :]  # (H, W)
    labels = split_windows(labels[None, :, :, None], (size, size))[..., 0]  # (W, size^2)
    return (labels[:, :, None] != labels[:, None, :]) * -100.0
