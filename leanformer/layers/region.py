"""Where a mixer looks: windows of the map, plain or shifted (Swin, https://arxiv.org/abs/2103.14030, section 3.2), or
stripes across it (CSwin, https://arxiv.org/abs/2107.00652, section 3.2).

A branch without a region sees the whole map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from leanformer import ops
from leanformer.layers.site import Grid


class PaddedRegion(nn.Module):
    """Base of the regions: parts of equal size, the map padded at the bottom and right where its sides are no multiples
    of theirs."""

    pad: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pad", None)

    def set_padding(self, value: Tensor) -> None:
        """Pad with the vector `value`, (C,), in place of zeros: the input that becomes zero once a folded norm is
        applied."""
        self.pad = value


class Stripes(PaddedRegion):
    """Run a mixer inside stripes that cross the whole map, however large it is.

    Args:
        split_size: tokens across a stripe; a map that is narrower is one stripe.
        direction: "down" for stripes of full height, "across" for those of full width.
    """

    def __init__(self, split_size: int, direction: Literal["down", "across"]) -> None:
        super().__init__()
        self.split_size = split_size
        self.direction = direction

    def size(self, grid: Grid) -> Grid:
        """(height, width) of a stripe of a map of size `grid`."""
        height, width = grid
        if self.direction == "down":
            return height, min(self.split_size, width)
        return min(self.split_size, height), width

    def forward(self, mixer: Callable[..., Tensor], x: Tensor, grid: Grid) -> Tensor:
        """Apply `mixer` to each stripe of x, (B, H W, C)."""
        height, width = grid
        size = self.size(grid)
        x = ops.pad_to_multiple(x.unflatten(1, grid), size, self.pad)
        stripes = mixer(ops.split_windows(x, size), size)  # (B S, h w, C)
        x = ops.join_windows(stripes, size, x.shape[1], x.shape[2])
        return x[:, :height, :width].flatten(1, 2)

    def extra_repr(self) -> str:
        """Size and direction."""
        return f"split_size={self.split_size}, direction={self.direction}"


class Window(PaddedRegion):
    """Run a mixer inside square windows, the map rolled by `shift` first.

    `masked` keeps tokens that the roll brought together from attending to each other.

    Args:
        fits: whether a map that is no larger than a window stays in place; else it is rolled like any other.
    """

    mask: Tensor | None

    def __init__(self, size: int, shift: int, grid: Grid, masked: bool = True, fits: bool = True) -> None:
        super().__init__()
        self.size = size
        self.shift = shift
        self.grid = grid
        self.masked = masked
        self.fits = fits
        self.register_buffer("mask", self._mask(grid), persistent=False)

    def forward(self, mixer: Callable[..., Tensor], x: Tensor, grid: Grid) -> Tensor:
        """Apply `mixer` to each window of x, (B, H W, C)."""
        height, width = grid
        shift, size = self._shift(grid), (self.size, self.size)
        x = ops.pad_to_multiple(x.unflatten(1, grid), size, self.pad)
        padded = x.shape[1], x.shape[2]
        if shift:
            x = x.roll((-shift, -shift), dims=(1, 2))
        windows = ops.split_windows(x, size)  # (B W, size^2, C)
        mask = self.mask if grid == self.grid else self._mask(grid)
        windows = mixer(windows, size, None if mask is None else mask.to(x.device))
        x = ops.join_windows(windows, size, *padded)
        if shift:
            x = x.roll((shift, shift), dims=(1, 2))
        return x[:, :height, :width].flatten(1, 2)

    def serve(self, takes_mask: bool) -> None:
        """Suit another mixer: one that takes no mask sees windows that stand still, unless they shifted without one
        before."""
        if not takes_mask and self.masked:
            self.shift = 0
        self.masked = takes_mask
        self.mask = self._mask(self.grid)

    def _shift(self, grid: Grid) -> int:
        return 0 if self.fits and min(grid) <= self.size else self.shift

    def _mask(self, grid: Grid) -> Tensor | None:
        shift = self._shift(grid)
        if not shift or not self.masked:
            return None
        height, width = (side + ops.shortfall(side, self.size) for side in grid)
        return ops.shifted_window_mask(height, width, self.size, shift).to(torch.get_default_dtype())

    def extra_repr(self) -> str:
        """Size, shift and mask."""
        return f"size={self.size}, shift={self.shift}, masked={self.masked}"
