"""Parts that several attentions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from leanformer.layers.linear import head_channels, keep
from leanformer.layers.position import LearnedPosition
from leanformer.layers.site import Grid, Site


class LocalValues(nn.Module):
    """A depthwise convolution on the values, one set of kernels for all heads: the local detail that a linear kernel
    averages away.

    Values of a coarser map are first interpolated, linearly along the sequence of tokens as SLAB and FLatten do it.
    Prefix tokens have no place on the map and get nothing.
    """

    def __init__(self, head_dim: int, kernel_size: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.conv = nn.Conv2d(head_dim, head_dim, kernel_size, padding=kernel_size // 2, groups=head_dim)

    def forward(self, v: Tensor, grid: Grid, key_grid: Grid) -> Tensor:
        """Values (B, h, prefix + M, d) of a map of size `key_grid` to (B, h, prefix + N, d) of one of size `grid`."""
        batch, num_heads, _, head_dim = v.shape
        places = v[:, :, self.prefix_tokens :]
        if key_grid != grid:
            # parity: along the sequence, not on the map, so that the end of a row mixes with the start of the next.
            sequence = places.flatten(0, 1).transpose(1, 2)  # (B h, d, M)
            sequence = F.interpolate(sequence, size=grid[0] * grid[1], mode="linear", align_corners=False)
            places = sequence.transpose(1, 2)
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
    """What all linear kernels share: heads, and their cost."""

    heads_apart: ClassVar[bool] = True
    joins_heads: ClassVar[bool] = False

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.dim = site.width
        self.num_heads = site.num_heads

    def keep_heads(self, heads: Sequence[int]) -> Tensor:
        """Keep these heads alone; the result is the channels, (C',), that are kept."""
        head_dim = self.dim // self.num_heads
        self.dim, self.num_heads = head_dim * len(heads), len(heads)
        return head_channels(heads, head_dim)

    def macs(self, num_queries: int, num_keys: int) -> int:
        """Multiply-accumulates of the linear attention, without convolutions."""
        return self.dim // self.num_heads * self.dim * (num_queries + num_keys) + num_queries * self.dim


class LocalLinearKernel(LinearKernel):
    """A linear kernel with a learned position on the keys and a local term on the values."""

    def __init__(self, site: Site, local_kernel: int = 5) -> None:
        super().__init__(site)
        self.key_position = KeyPosition(site.width, site.key_grid, site.prefix_tokens)
        self.local = LocalValues(site.width // site.num_heads, local_kernel, site.prefix_tokens)

    def keep_heads(self, heads: Sequence[int]) -> Tensor:
        """Keep these heads alone; all heads share the local term."""
        channels = super().keep_heads(heads)
        keep(self.key_position, "table", channels, 2)
        return channels
