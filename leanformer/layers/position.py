"""Learned positions: tables added to tokens, and biases added to attention scores."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanformer.layers.site import Grid

Interpolation = Literal["bicubic", "bilinear"]


class LearnedPosition(nn.Module):
    """A table (1, prefix + H W, C), resized when the map has another size than it was built for.

    Args:
        std: of the initial values; 0 for zeros.
        resize: how the table is interpolated.
    """

    def __init__(
        self, dim: int, grid: Grid, prefix_tokens: int = 0, std: float = 0.0, resize: Interpolation = "bicubic"
    ) -> None:
        super().__init__()
        self.grid = grid
        self.resize: Interpolation = resize
        self.prefix_tokens = prefix_tokens
        self.table = nn.Parameter(torch.zeros(1, prefix_tokens + grid[0] * grid[1], dim))
        if std:
            nn.init.trunc_normal_(self.table, std=std)

    def forward(self, grid: Grid) -> Tensor:
        """The table (1, prefix + H W, C) for a map of size `grid`."""
        if grid == self.grid:
            return self.table
        prefix, places = self.table[:, : self.prefix_tokens], self.table[:, self.prefix_tokens :]
        return torch.cat((prefix, resize_tokens(places, self.grid, grid, self.resize)), dim=1)


class RelativePositionBias(nn.Module):
    """One learned bias for each head and each offset between two places (Swin, section 3.2)."""

    index: Tensor

    def __init__(self, grid: Grid, num_heads: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.grid = grid
        self.prefix_tokens = prefix_tokens
        self.table = nn.Parameter(torch.empty((2 * grid[0] - 1) * (2 * grid[1] - 1), num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("index", _offsets(grid), persistent=False)

    def forward(self, grid: Grid) -> Tensor:
        """The biases (h, N, N) between the tokens of a map of size `grid`; zero from and to prefix tokens."""
        table, index = self.table, self.index
        if grid != self.grid:
            source, target = ((2 * height - 1, 2 * width - 1) for height, width in (self.grid, grid))
            table = resize_tokens(table.unsqueeze(0), source, target)[0]
            index = _offsets(grid).to(table.device)
        num_tokens = grid[0] * grid[1]
        bias = table[index.flatten()].view(num_tokens, num_tokens, -1).permute(2, 0, 1)
        return F.pad(bias, (self.prefix_tokens, 0, self.prefix_tokens, 0)) if self.prefix_tokens else bias


def resize_tokens(x: Tensor, source: Grid, target: Grid, mode: Interpolation = "bicubic") -> Tensor:
    """Resize tokens (B, H W, C) of a map of size `source` to one of size `target`."""
    image = x.transpose(1, 2).unflatten(2, source)
    return F.interpolate(image, size=target, mode=mode, align_corners=False).flatten(2).transpose(1, 2)


def _offsets(grid: Grid) -> Tensor:
    height, width = grid
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    down = rows[:, None] - rows[None, :] + height - 1
    right = columns[:, None] - columns[None, :] + width - 1
    return down * (2 * width - 1) + right
