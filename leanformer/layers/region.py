"""Where a mixer looks: windows of the map, plain or shifted (Swin, https://arxiv.org/abs/2103.14030, section 3.2).

A branch without a region sees the whole map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from leanformer import ops
from leanformer.layers.site import Grid


class Window(nn.Module):
    """Run a mixer inside square windows, the map rolled by `shift` first.

    Maps whose sides are no multiples of `size` are padded at the bottom and right. `masked` keeps tokens that the roll
    brought together from attending to each other.
    """

    pad: Tensor | None
    mask: Tensor | None

    def __init__(self, size: int, shift: int, grid: Grid, masked: bool = True) -> None:
        super().__init__()
        self.size = size
        self.shift = shift
        self.grid = grid
        self.masked = masked
        self.register_buffer("pad", None)
        self.register_buffer("mask", self._mask(grid), persistent=False)

    def set_padding(self, value: Tensor) -> None:
        """Pad with the vector `value`, (C,), in place of zeros: the input that becomes zero once a folded norm is
        applied."""
        self.pad = value

    def forward(self, mixer: Callable[..., Tensor], x: Tensor, grid: Grid) -> Tensor:
        """Apply `mixer` to each window of x, (B, H W, C)."""
        batch, _, channels = x.shape
        height, width = grid
        shift, size = self._shift(grid), (self.size, self.size)
        x = ops.pad_to_multiple(x.view(batch, height, width, channels), size, self.pad)
        padded = x.shape[1], x.shape[2]
        if shift:
            x = x.roll((-shift, -shift), dims=(1, 2))
        windows = ops.split_windows(x, size)  # (B W, size^2, C)
        mask = self.mask if grid == self.grid else self._mask(grid)
        windows = mixer(windows, size, None if mask is None else mask.to(x.device))
        x = ops.join_windows(windows, size, *padded)
        if shift:
            x = x.roll((shift, shift), dims=(1, 2))
        return x[:, :height, :width].reshape(batch, height * width, -1)

    def _shift(self, grid: Grid) -> int:
        return self.shift if min(grid) > self.size else 0

    def _mask(self, grid: Grid) -> Tensor | None:
        shift = self._shift(grid)
        if not shift or not self.masked:
            return None
        height, width = (side + -side % self.size for side in grid)
        return ops.shifted_window_mask(height, width, self.size, shift).to(torch.get_default_dtype())

    def extra_repr(self) -> str:
        """Size, shift and mask."""
        return f"size={self.size}, shift={self.shift}, masked={self.masked}"
