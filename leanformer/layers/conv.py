"""Convolutions on the map behind tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from leanformer import ops
from leanformer.layers.site import Grid


class DepthwiseConv(nn.Conv2d):
    """One kernel for each channel, on tokens: (B, H W, C) to the same shape, zeros around the map."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:  # type: ignore[override]
        """Convolve the tokens of a map of size `grid`."""
        return ops.to_tokens(super().forward(ops.to_map(x, grid)))


class ConvPosition(DepthwiseConv):
    """x plus its depthwise convolution: a position that depends on the neighbourhood and fits every map
    (https://arxiv.org/abs/2102.10882).

    Args:
        gelu: whether GELU follows the convolution.
    """

    def __init__(self, dim: int, kernel_size: int = 3, *, gelu: bool = False) -> None:
        super().__init__(dim, kernel_size)
        self.gelu = gelu

    def forward(self, x: Tensor, grid: Grid) -> Tensor:  # type: ignore[override]
        """(B, H W, C) to the same shape."""
        added = super().forward(x, grid)
        return x + (F.gelu(added) if self.gelu else added)
