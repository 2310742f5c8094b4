"""What a place in a model tells the module built there, and what that module offers to edits.

A backbone only says *where* (`Site`); configs decide *what* is built there. Edits find norms through `NormSite`, so
they never need to know a backbone's class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from leanformer.layers.norm import NormConfig, Place

Grid = tuple[int, int]
"""(height, width) of a token map."""


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """A coarser map that keys and values come from, made by a strided convolution (PVT) or by pooling to a fixed size
    (linear PVTv2). With stride 1 they come from the map itself, still through a projection of their own."""

    stride: int = 1
    pool: int | None = None
    """Side of the map pooled to; then there is no stride."""
    norm: NormConfig
    """Behind what makes the map coarser."""

    def grid(self, grid: Grid) -> Grid:
        """The coarser grid of a map of size `grid`."""
        return (self.pool, self.pool) if self.pool else (grid[0] // self.stride, grid[1] // self.stride)


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a mixer sits: all that a backbone knows and an attention may need."""

    dim: int
    """Channels of a token."""
    num_heads: int
    grid: Grid
    """What one call of the mixer sees: a window, or the whole map."""
    dim_out: int | None = None
    """Channels of the result; None for `dim`. Less in stripes, which are a part of the result each."""
    reduction: Reduction | None = None
    """How keys and values get coarser; None where they are projected together with the queries."""
    prefix_tokens: int = 0
    """Class and other tokens in front of the map."""
    qkv_bias: bool = True
    out_proj: bool = True
    """Whether the mixer projects its result; stripes are projected together."""
    value_position: bool = False
    """Whether a 3 x 3 depthwise convolution of the values is added (the locally enhanced position of CSwin)."""

    @property
    def width(self) -> int:
        """Channels of the result."""
        return self.dim_out or self.dim

    @property
    def key_grid(self) -> Grid:
        """The grid of the keys and values."""
        return self.grid if self.reduction is None else self.reduction.grid(self.grid)


class TokenMixer(Protocol):
    """The body of an attention branch: (B, N, C) to (B, N, C_out)."""

    def __call__(self, x: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """Mix the tokens `x` of a map of size `grid`."""
        ...

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that read x first: where a norm in front folds in."""
        ...

    def describe(self) -> str:
        """What users call it."""
        ...


class Kernel(Protocol):
    """How queries, keys and values combine: q (B, N, C), k and v (B, M, C) to (B, N, C)."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, key_grid: Grid, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from the places of a map of size `grid` to those of one of size `key_grid`."""
        ...

    def macs(self, num_queries: int, num_keys: int) -> int:
        """Multiply-accumulates of one image that happen outside linear and convolution modules."""
        ...

    # A kernel may offer `keep_heads(heads)`, after which it has these heads alone, as if the others gave zeros; and say
    # by `heads_apart` whether they compute apart, by `joins_heads` whether it projects the results of all itself.


class Padding(Protocol):
    """Something that pads tokens between a norm and the layers it folds into."""

    def set_padding(self, value: Tensor) -> None:
        """Pad with the vector `value`, (C,), in place of zeros."""
        ...


@dataclass(frozen=True, kw_only=True)
class NormSite:
    """One norm of a model and its linear neighbours, as its owner declares it in `norm_sites()`.

    Either `before` or `after` is given; neither if the norm cannot be folded.
    """

    owner: nn.Module
    attribute: str
    """Name of the norm in its owner."""
    place: Place | None = "block"
    """What the backbone's config calls the place; None where the layer comes with this norm and nobody chooses it."""
    before: nn.Linear | nn.Conv2d | None = None
    """The layer whose output is normalised and nothing else reads: the norm folds backward into it."""
    after: tuple[nn.Linear | nn.Conv2d, ...] = ()
    """The layers that are all that reads the normalised tokens: the norm folds forward into them."""
    paddings: tuple[Padding, ...] = ()
    """What may pad between the norm and `after`: windows, stripes, a downsampling of odd sides."""

    @property
    def norm(self) -> nn.Module:
        """The norm itself."""
        return getattr(self.owner, self.attribute)
