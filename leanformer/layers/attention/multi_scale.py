"""ReLU linear attention at several scales (LiteMLA of EfficientViT, https://arxiv.org/abs/2205.14756, section 3.1):
queries, keys and values also attend as they look after gathering their neighbourhood, which gives a linear kernel the
local detail that it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from leanformer import ops
from leanformer.config import register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention.frames import KernelAttention
from leanformer.layers.attention.parts import LinearKernel
from leanformer.layers.conv import DepthwiseConv
from leanformer.layers.linear import keep_inputs, keep_outputs
from leanformer.layers.site import Grid, Kernel, Site, TokenMixer


@register_config("multi_scale_linear")
class MultiScaleLinear(KernelAttention):
    """ReLU linear attention of the tokens and of their neighbourhoods, one set of heads for each scale."""

    scales: tuple[int, ...] = (5,)
    """Sides of the neighbourhoods that tokens gather, odd, beside the tokens themselves."""

    def __post_init__(self) -> None:
        if any(scale < 3 or scale % 2 == 0 for scale in self.scales):
            raise ConfigError(f"scales must be odd and at least 3 to keep the map's size, got {self.scales}")

    def kernel(self, site: Site) -> Kernel:
        """The kernel for this place."""
        return MultiScaleKernel(site, self.scales)

    def mixer(self, site: Site) -> TokenMixer:
        """The kernel in the frame that the site asks for, without its projection: joining the scales is one."""
        return super().mixer(replace(site, out_proj=False))


class MultiScaleKernel(LinearKernel):
    """relu(q) (relu(k)^T v) at each scale, normalised by the sum of weights; then a projection of all scales."""

    joins_heads: ClassVar[bool] = True

    def __init__(self, site: Site, scales: tuple[int, ...] = (5,)) -> None:
        super().__init__(site)
        dim, heads, prefix = site.width, site.num_heads, site.prefix_tokens
        self.neighborhoods = nn.ModuleList(Neighborhoods(dim, heads, scale, prefix) for scale in scales)
        self.join = nn.Linear(dim * (1 + len(scales)), dim)

    def keep_heads(self, heads: Sequence[int]) -> Tensor:
        """Keep these heads alone, at all scales."""
        before = self.dim
        channels = super().keep_heads(heads)
        for module in self.neighborhoods.modules():
            if isinstance(module, Neighborhood):
                keep_outputs(module.depthwise, channels, groups=len(channels))
                keep_outputs(module.pointwise, channels, groups=len(heads))
        scales = 1 + len(self.neighborhoods)
        keep_inputs(self.join, torch.cat([channels + i * before for i in range(scales)]))
        return channels

    def macs(self, num_queries: int, num_keys: int) -> int:
        """Multiply-accumulates of the linear attention at all scales."""
        return (1 + len(self.neighborhoods)) * super().macs(num_queries, num_keys)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, key_grid: Grid, mask: Tensor | None = None
    ) -> Tensor:
        """Attend: q is (B, N, C), k and v are (B, M, C), the result is (B, N, C)."""
        assert mask is None, "a linear kernel cannot leave out pairs of tokens"
        seen = [(q, k, v), *(gather(q, k, v, grid, key_grid) for gather in self.neighborhoods)]
        return self.join(torch.cat([self._attend(*scale) for scale in seen], dim=-1))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (ops.split_heads(t, self.num_heads) for t in (q.relu(), k.relu(), v))  # (B, h, N, d)
        return ops.merge_heads(ops.linear_attention(q, k, v, eps=1e-6))


class Neighborhoods(nn.Module):
    """What queries, keys and values see around them at one scale."""

    def __init__(self, dim: int, num_heads: int, kernel_size: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.q, self.k, self.v = (Neighborhood(dim, num_heads, kernel_size, prefix_tokens) for _ in range(3))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, key_grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """The same shapes; q is of a map of size `grid`, k and v of one of size `key_grid`."""
        return self.q(q, grid), self.k(k, key_grid), self.v(v, key_grid)


class Neighborhood(nn.Module):
    """A depthwise convolution, then a mixing of the channels of each head. Prefix tokens have no neighbourhood and are
    mixed alone."""

    def __init__(self, dim: int, num_heads: int, kernel_size: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.depthwise = DepthwiseConv(dim, kernel_size)
        self.pointwise = nn.Conv1d(dim, dim, 1, groups=num_heads)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, prefix + H W, C) to the same shape."""
        prefix, places = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        gathered = torch.cat((prefix, self.depthwise(places, grid)), dim=1)
        return self.pointwise(gathered.transpose(1, 2)).transpose(1, 2)
