"""Frames: the projections around a (q, k, v) kernel. The site chooses the frame, the config the kernel."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from leanformer import ops
from leanformer.errors import ConfigError
from leanformer.layers.conv import DepthwiseConv
from leanformer.layers.linear import stacked
from leanformer.layers.site import Grid, Kernel, NormSite, Site, TokenMixer


class AttentionConfig:
    """Base of the configs of attentions. What they build remembers the config and the site, as `attention` and `site`,
    so that edits can build another in its place."""

    kind: ClassVar[str]
    takes_mask: ClassVar[bool] = False
    """Whether the attention can leave out pairs of tokens, as shifted windows ask."""

    def build(self, site: Site) -> TokenMixer:
        """The mixer for this place.

        Raises:
            ConfigError: if the attention cannot work there.
        """
        mixer = self.mixer(site)
        mixer.attention, mixer.site = self, site  # type: ignore[attr-defined]
        return mixer

    def mixer(self, site: Site) -> TokenMixer:
        """What `build` gives; subclasses say how it is made."""
        raise NotImplementedError


class KernelAttention(AttentionConfig):
    """Base of the configs that are a (q, k, v) kernel inside a frame."""

    def kernel(self, site: Site) -> Kernel:
        """The kernel for this place."""
        raise NotImplementedError

    def mixer(self, site: Site) -> TokenMixer:
        """The kernel in the frame that the site asks for."""
        frame = SelfAttention if site.reduction is None else ReducedAttention
        return frame(site, self.kernel(site))


class Frame(nn.Module):
    """What frames share: the kernel, a local position on the values, and the output projection."""

    def __init__(self, site: Site, kernel: Kernel) -> None:
        super().__init__()
        if site.width % site.num_heads:
            raise ConfigError(f"{site.width} channels are not divisible by num_heads {site.num_heads}")
        self.kernel = kernel
        self.value_position = DepthwiseConv(site.width, 3) if site.value_position else None
        self.proj = nn.Linear(site.width, site.width) if site.out_proj else None

    def describe(self) -> str:
        """What users call it."""
        return type(self.kernel).__name__.removesuffix("Kernel")

    def exit_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that give the result; none where something else projects it."""
        return () if self.proj is None else (self.proj,)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, key_grid: Grid, mask: Tensor | None) -> Tensor:
        """The kernel's result with what follows it, (B, N, C_out)."""
        out = self.kernel(q, k, v, grid, key_grid) if mask is None else self.kernel(q, k, v, grid, key_grid, mask)
        if self.value_position is not None:
            out = out + self.value_position(v, key_grid)
        return out if self.proj is None else self.proj(out)


class SelfAttention(Frame):
    """One fused projection to queries, keys and values, a kernel, and the output projection."""

    def __init__(self, site: Site, kernel: Kernel) -> None:
        super().__init__(site, kernel)
        self.qkv = nn.Linear(site.dim, 3 * site.width, bias=site.qkv_bias)

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that read x first."""
        return (self.qkv,)

    def forward(self, x: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """Mix x, (B, N, C), the tokens of a map of size `grid` (prefix tokens in front)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.attend(q, k, v, grid, grid, mask)

    def attend_sized(self, x: Tensor, grid: Grid, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mix x, (B, N, C), tokens that stand for as many as `sizes` (B, N) says, and give their keys too, (B, N, C).
        For softmax kernels."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        out = self.kernel(q, k, v, grid, grid, sizes=sizes)  # type: ignore[call-arg]
        return (out if self.proj is None else self.proj(out)), k


class ReducedAttention(Frame):
    """Queries from the map, keys and values from a coarser one (spatial reduction, PVT,
    https://arxiv.org/abs/2102.12122, section 3.3; pooled in linear PVTv2, https://arxiv.org/abs/2106.13797)."""

    def __init__(self, site: Site, kernel: Kernel) -> None:
        super().__init__(site, kernel)
        assert site.reduction is not None and not site.value_position
        self.reduction = site.reduction
        reduces = self.reduction.pool is not None or self.reduction.stride > 1
        if reduces and site.prefix_tokens:
            raise ConfigError("class tokens have no place on a map that is reduced; reduce with stride 1 there")
        if min(site.key_grid) < 1:
            raise ConfigError(
                f"a map of {site.grid[0]} x {site.grid[1]} cannot be reduced by {self.reduction.stride}; take larger "
                "images or smaller reductions"
            )
        self.q = nn.Linear(site.dim, site.width, bias=site.qkv_bias)
        self.kv = nn.Linear(site.dim, 2 * site.width, bias=site.qkv_bias)
        side = 1 if self.reduction.pool else self.reduction.stride
        self.reduce = nn.Conv2d(site.dim, site.dim, side, stride=side) if reduces else None
        self.norm = self.reduction.norm.build(site.dim) if reduces else None

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that read x first."""
        return self.q, self.kv if self.reduce is None else self.reduce

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm behind the reducing convolution."""
        if self.norm is None:
            return ()
        return (NormSite(owner=self, attribute="norm", place="reduction", before=self.reduce),)

    def fused(self) -> SelfAttention:
        """The same with one projection, where keys and values come from the map of the queries."""
        assert self.reduce is None, "keys come from another map"
        width = self.q.out_features
        heads: int = self.kernel.num_heads  # type: ignore[attr-defined]
        site = Site(dim=self.q.in_features, dim_out=width, num_heads=heads, grid=(1, 1), out_proj=False)
        frame = SelfAttention(site, self.kernel)
        frame.qkv, frame.proj = stacked(self.q, self.kv), self.proj
        return frame

    def forward(self, x: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """Mix x, (B, N, C), the tokens of a map of size `grid`."""
        assert mask is None, "masks are between tokens of one map"
        y, key_grid = self._coarser(x, grid)
        k, v = self.kv(y).chunk(2, dim=-1)
        return self.attend(self.q(x), k, v, grid, key_grid, None)

    def _coarser(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        if self.reduce is None or self.norm is None:
            return x, grid
        image = ops.to_map(x, grid)
        if self.reduction.pool:
            image = F.adaptive_avg_pool2d(image, self.reduction.pool)
        y = self.norm(ops.to_tokens(self.reduce(image)))
        return (F.gelu(y) if self.reduction.pool else y), self.reduction.grid(grid)
