"""Parts that several attentions share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from leanformer.layers.position import LearnedPosition
from leanformer.layers.site import Grid


class LocalValues(nn.Module):
    """A depthwise convolution on the values, one set of kernels for all heads: the local detail that a linear kernel
    averages away.

    Prefix tokens have no place on the map and get nothing.
    """

    def __init__(self, head_dim: int, kernel_size: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.conv = nn.Conv2d(head_dim, head_dim, kernel_size, padding=kernel_size // 2, groups=head_dim)

    def forward(self, v: Tensor, grid: Grid) -> Tensor:
        """(B, h, prefix + H W, d) to the same shape."""
        batch, num_heads, _, head_dim = v.shape
        places = v[:, :, self.prefix_tokens :]
        image = places.reshape(batch * num_heads, *grid, head_dim).permute(0, 3, 1, 2)
        out = self.conv(image).permute(0, 2, 3, 1).reshape(batch, num_heads, grid[0] * grid[1], head_dim)
        return F.pad(out, (0, 0, self.prefix_tokens, 0)) if self.prefix_tokens else out


class KeyPosition(LearnedPosition):
    """A learned position added to the keys of the map; it starts at zero, and prefix tokens get none."""

    def __init__(self, dim: int, grid: Grid, prefix_tokens: int = 0) -> None:
        super().__init__(dim, grid)
        self.num_skipped = prefix_tokens

    def add_to(self, k: Tensor, grid: Grid) -> Tensor:
        """k, (B, prefix + H W, C), with the position of each place added."""
        table = self(grid)
        return k + (F.pad(table, (0, 0, self.num_skipped, 0)) if self.num_skipped else table)


class LinearKernel(nn.Module):
    """What linear kernels share: a position on the keys, a local term on the values, no masks, and their cost."""

    def __init__(self, dim: int, num_heads: int, grid: Grid, prefix_tokens: int = 0, local_kernel: int = 5) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.key_position = KeyPosition(dim, grid, prefix_tokens)
        self.local = LocalValues(dim // num_heads, local_kernel, prefix_tokens)

    def macs(self, num_queries: int, num_keys: int) -> int:
        """Multiply-accumulates of the linear attention, without the convolution."""
        return self.dim // self.num_heads * self.dim * (num_queries + num_keys) + num_queries * self.dim
