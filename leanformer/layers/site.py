"""What a place in a model tells the module built there, and what that module offers to edits.

A backbone only says *where* (`Site`); configs decide *what* is built there. Edits find norms through `NormSite`, so
they never need to know a backbone's class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from leanformer.layers.region import Window

Grid = tuple[int, int]
"""(height, width) of a token map."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a mixer sits: all that a backbone knows and an attention may need."""

    dim: int
    """Channels of a token."""
    num_heads: int
    grid: Grid
    """What one call of the mixer sees: a window, or the whole map."""
    prefix_tokens: int = 0
    """Class and other tokens in front of the map."""
    qkv_bias: bool = True


class TokenMixer(Protocol):
    """The body of an attention branch: (B, N, C) to (B, N, C)."""

    def __call__(self, x: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """Mix the tokens `x` of a map of size `grid`."""
        ...

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that read x first: where a norm in front folds in."""
        ...


class Kernel(Protocol):
    """How queries, keys and values combine: q (B, N, C), k and v (B, M, C) to (B, N, C)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """Attend over a map of size `grid`."""
        ...

    def macs(self, num_queries: int, num_keys: int) -> int:
        """Multiply-accumulates of one image that happen outside linear and convolution modules."""
        ...


@dataclass(frozen=True, kw_only=True)
class NormSite:
    """One norm of a model and its linear neighbours, as its owner declares it in `norm_sites()`."""

    owner: nn.Module
    attribute: str
    """Name of the norm in its owner."""
    before: nn.Linear | nn.Conv2d | None = None
    """The layer whose output is normalised and nothing else reads: the norm folds backward into it."""
    after: tuple[nn.Linear | nn.Conv2d, ...] = ()
    """The layers that are all that reads the normalised tokens: the norm folds forward into them."""
    window: Window | None = None
    """The region between the norm and `after`, if it may pad."""

    @property
    def norm(self) -> nn.Module:
        """The norm itself."""
        return getattr(self.owner, self.attribute)
