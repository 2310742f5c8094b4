"""The one residual branch: x + drop_path(scale * body(norm(x))), the body acting inside a region."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanformer.layers.region import Window
from leanformer.layers.site import Grid, NormSite


class Branch(nn.Module):
    """A normalised, optionally windowed body added to its input.

    Args:
        body: maps (x, grid) to tokens like x, and names the layers that read x first in `entry_layers()`.
        norm: None for none.
        region: windows in which the body runs; None for the whole map.
        layer_scale: learned factors on the body's result; None for none.
        drop_path: probability that a sample skips the body while training.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        norm: nn.Module | None = None,
        region: Window | None = None,
        layer_scale: LayerScale | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.body = body
        self.region = region
        self.layer_scale = layer_scale
        self.drop_path = DropPath(drop_path)

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm in front of the body."""
        if self.norm is None:
            return ()
        after = self.body.entry_layers()  # type: ignore[operator]
        inner = self.body.paddings() if hasattr(self.body, "paddings") else ()  # type: ignore[operator]
        paddings = (*inner, *(() if self.region is None else (self.region,)))
        return (NormSite(owner=self, attribute="norm", after=after, paddings=paddings),)

    def update(self, x: Tensor, grid: Grid) -> Tensor:
        """The residual update alone, (B, N, C)."""
        y = x if self.norm is None else self.norm(x)
        y = self.body(y, grid) if self.region is None else self.region(self.body, y, grid)
        return self.drop_path(y if self.layer_scale is None else self.layer_scale(y))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return x + self.update(x, grid)


class LayerScale(nn.Module):
    """One learned factor for each channel (https://arxiv.org/abs/2103.17239)."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(init * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x, (..., C)."""
        return x * self.gamma


class Rescale(nn.Module):
    """A fixed multiple of the tokens: what stays of a branch whose body became the identity."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C); the grid is not used."""
        return x * self.factor

    def extra_repr(self) -> str:
        """The factor."""
        return f"factor={self.factor}"


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
