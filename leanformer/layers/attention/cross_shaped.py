"""Cross-shaped attention (CSwin, https://arxiv.org/abs/2107.00652, section 3.2): half of the heads look down the map,
half across it, each half in stripes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from leanformer.errors import ConfigError
from leanformer.layers.attention.frames import AttentionConfig
from leanformer.layers.region import Stripes
from leanformer.layers.site import Grid, Padding, Site, TokenMixer


class CrossShaped(nn.Module):
    """Mixers whose results, side by side, are the channels of one projection.

    Args:
        branches: any mixers; together they give `dim` channels.
        stripes: the region of each; empty for the whole map.
    """

    def __init__(self, dim: int, branches: Sequence[TokenMixer], stripes: Sequence[Stripes] = ()) -> None:
        super().__init__()
        assert len(stripes) in (0, len(branches))
        self.branches = nn.ModuleList(branches)  # type: ignore[arg-type]
        self.stripes = nn.ModuleList(stripes)
        self.proj = nn.Linear(dim, dim)

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers of all branches that read x first."""
        return tuple(layer for branch in self.branches for layer in branch.entry_layers())  # type: ignore[operator]

    def exit_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that give the result."""
        return (self.proj,)

    def paddings(self) -> tuple[Padding, ...]:
        """The stripes."""
        return tuple(self.stripes)  # type: ignore[arg-type]

    def describe(self) -> str:
        """What users call it."""
        return self.branches[0].describe()  # type: ignore[operator]

    def forward(self, x: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """Mix x, (B, N, C), the tokens of a map of size `grid`."""
        assert mask is None, "stripes are not shifted"
        if not self.stripes:
            parts = [branch(x, grid) for branch in self.branches]
        else:
            parts = [region(branch, x, grid) for region, branch in zip(self.stripes, self.branches, strict=True)]
        return self.proj(torch.cat(parts, dim=-1))


def cross_shaped(attention: AttentionConfig, site: Site, split_size: int | None) -> CrossShaped:
    """Attention of the kind `attention` in two sorts of stripes, or for `split_size` None in one branch over the whole
    map, whatever its size.

    Raises:
        ConfigError: if the heads cannot be shared out, or the attention cannot work there.
    """
    site = replace(site, out_proj=False, value_position=True)
    if split_size is None:
        return CrossShaped(site.width, [attention.build(site)])
    if split_size < 1:
        raise ConfigError(f"split_size must be positive, or None for one branch over the whole map, got {split_size}")
    if site.num_heads % 2:
        raise ConfigError(
            f"half of the heads look down the map and half across it, so num_heads must be even, got {site.num_heads}; "
            "or take split_size None, which is one branch over the whole map"
        )
    stripes = [Stripes(split_size, "down"), Stripes(split_size, "across")]
    half = replace(site, dim_out=site.width // 2, num_heads=site.num_heads // 2)
    return CrossShaped(site.width, [attention.build(replace(half, grid=s.size(site.grid))) for s in stripes], stripes)
