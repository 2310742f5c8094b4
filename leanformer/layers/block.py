"""The one transformer block, and the sequence of blocks that a stage is."""

from __future__ import annotations

from torch import Tensor, nn

from leanformer.layers.branch import Branch
from leanformer.layers.site import Grid


class Block(nn.Module):
    """An attention branch, then an MLP branch."""

    def __init__(self, *, attn: Branch, mlp: Branch) -> None:
        super().__init__()
        self.attn = attn
        self.mlp = mlp

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return self.mlp(self.attn(x, grid), grid)


class BlockSequence(nn.ModuleList):
    """Blocks run one after the other on a map of one size."""

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        for block in self:
            x = block(x, grid)
        return x
