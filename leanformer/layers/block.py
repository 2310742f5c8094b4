"""The one transformer block, the sequence of blocks, and the stage around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from leanformer.layers.branch import Branch, LayerScale
from leanformer.layers.norm import NormConfig
from leanformer.layers.recompute import recompute
from leanformer.layers.region import Window
from leanformer.layers.site import Grid, TokenMixer


class Block(nn.Module):
    """An attention branch and an MLP branch, with what some systems put around them; absent parts are skipped.

    Every part maps (x, grid) to tokens like x.

    Args:
        attn: None where it was removed.
        position: a position from the neighbourhood, in front of the attention.
        local: a branch between attention and MLP.
        mlp_position: a position in front of the MLP.
    """

    def __init__(
        self,
        *,
        attn: nn.Module | None,
        mlp: nn.Module,
        position: nn.Module | None = None,
        local: nn.Module | None = None,
        mlp_position: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.position = position
        self.attn = attn
        self.local = local
        self.mlp_position = mlp_position
        self.mlp = mlp

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        for part in (self.position, self.attn, self.local, self.mlp_position, self.mlp):
            if part is not None:
                x = part(x, grid)
        return x


class BlockSequence(nn.ModuleList):
    """Blocks run one after the other on a map of one size.

    Attributes:
        checkpointing: compute each block a second time in the backward pass, which saves the memory between its ends.
    """

    checkpointing = False

    def run(self, part: nn.Module, x: Tensor, *args: Any) -> Tensor:
        """(B, N, C) to (B, N, C) through one of the blocks, or a part of one, called with (x, *args)."""
        return recompute(part, x, *args) if self.checkpointing else part(x, *args)

    def ends(self, x: Tensor, grid: Grid) -> Iterator[Tensor]:
        """Tokens (B, N, C) behind each block, in order; a block is run when its tokens are asked for."""
        for block in self:
            x = self.run(block, x, grid)
            yield x

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        for block in self:
            x = self.run(block, x, grid)
        return x


class Stage(nn.Module):
    """A map of one size: what makes it of the map before, a position on it, blocks, and a norm behind them.

    Args:
        downsample: maps (x, grid) to the tokens and grid of the coarser map.
        position: gives the table (1, N, C) that is added for a grid.
        class_token: a token (1, 1, C) put in front of the map, for which the position has a place.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        *,
        downsample: nn.Module | None = None,
        position: nn.Module | None = None,
        norm: nn.Module | None = None,
        class_token: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.class_token = class_token
        self.position = position
        self.blocks = BlockSequence(blocks)
        self.norm = norm

    def enter(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Tokens (B, N, C) of the map before to those that the first block reads, and their grid."""
        if self.downsample is not None:
            x, grid = self.downsample(x, grid)
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1)
        if self.position is not None:
            x = x + self.position(grid)
        return x, grid

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Tokens (B, N, C) of the map before to those of this stage's map, and its grid."""
        x, grid = self.enter(x, grid)
        x = self.blocks(x, grid)
        return (x if self.norm is None else self.norm(x)), grid


def pre_norm_block(
    dim: int,
    attention: TokenMixer,
    mlp: nn.Module,
    norm: NormConfig,
    *,
    region: Window | None = None,
    drop_path: float = 0.0,
    layer_scale: float | None = None,
    **around: nn.Module | None,
) -> Block:
    """The usual block: both branches with a norm in front.

    Args:
        region: where the attention looks; None for the whole map.
        layer_scale: initial value of the learned factors on both branches; None for none.
        around: the other parts of a `Block`.
    """

    def branch(body: object, region: Window | None) -> Branch:
        scale = None if layer_scale is None else LayerScale(dim, layer_scale)
        return Branch(body, norm=norm.build(dim), region=region, layer_scale=scale, drop_path=drop_path)  # type: ignore[arg-type]

    return Block(attn=branch(attention, region), mlp=branch(mlp, None), **around)
