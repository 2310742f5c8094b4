"""The one residual branch: x + drop_path(body(norm(x))), the body acting inside a region."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanformer.layers.region import Window
from leanformer.layers.site import Grid, NormSite


class Branch(nn.Module):
    """A normalised, optionally windowed body added to its input.

    Args:
        body: maps (x, grid) to tokens like x, and names the layers that read x first in `entry_layers()`.
        region: windows in which the body runs; None for the whole map.
        drop_path: probability that a sample skips the body while training.
    """

    def __init__(
        self, body: nn.Module, *, norm: nn.Module, region: Window | None = None, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = norm
        self.body = body
        self.region = region
        self.drop_path = DropPath(drop_path)

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm in front of the body."""
        after = self.body.entry_layers()  # type: ignore[operator]
        return (NormSite(owner=self, attribute="norm", after=after, window=self.region),)

    def update(self, x: Tensor, grid: Grid) -> Tensor:
        """The residual update alone, (B, N, C)."""
        y = self.norm(x)
        y = self.body(y, grid) if self.region is None else self.region(self.body, y, grid)
        return self.drop_path(y)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return x + self.update(x, grid)


class DropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): zero whole samples while training, scale the kept ones
    up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of x, (B, ...)."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (kept / keep)

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:.3f}"
