"""Softmax attention (https://arxiv.org/abs/1706.03762), with Swin's relative position bias on request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from leanformer import ops
from leanformer.config import register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention.frames import KernelAttention
from leanformer.layers.linear import head_channels, keep
from leanformer.layers.position import RelativePositionBias
from leanformer.layers.site import Grid, Kernel, Site


@register_config("softmax")
class Softmax(KernelAttention):
    """softmax(q k^T / sqrt(d)) v."""

    takes_mask: ClassVar[bool] = True
    relative_position: bool = False
    """Add a learned bias for each head and each offset between two places."""

    def kernel(self, site: Site) -> Kernel:
        """The kernel for this place."""
        if self.relative_position and site.key_grid != site.grid:
            raise ConfigError("a relative position needs keys on the map of the queries, not on a reduced one")
        bias = RelativePositionBias(site.grid, site.num_heads, site.prefix_tokens) if self.relative_position else None
        return SoftmaxKernel(site.width, site.num_heads, bias)


class SoftmaxKernel(nn.Module):
    """Softmax attention over all tokens of a call."""

    heads_apart: ClassVar[bool] = True
    joins_heads: ClassVar[bool] = False

    def __init__(self, dim: int, num_heads: int, bias: RelativePositionBias | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.bias = bias

    def keep_heads(self, heads: Sequence[int]) -> Tensor:
        """Keep these heads alone, with their biases; the result is the channels, (C',), that are kept."""
        head_dim = self.dim // self.num_heads
        self.dim, self.num_heads = head_dim * len(heads), len(heads)
        if self.bias is not None:
            keep(self.bias, "table", torch.tensor(heads), 1)
        return head_channels(heads, head_dim)

    def macs(self, num_queries: int, num_keys: int) -> int:
        """Multiply-accumulates of q k^T and of the weighted sum of values."""
        return 2 * num_queries * num_keys * self.dim

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grid: Grid,
        key_grid: Grid,
        mask: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        """Attend: q is (B, N, C), k and v are (B, M, C), `mask` is (W, N, M) for W windows per image; the result is
        (B, N, C). A key counts as often as its entry of `sizes`, (B, M), says."""
        q, k, v = (ops.split_heads(t, self.num_heads) for t in (q, k, v))
        if sizes is not None:
            assert self.bias is None, "merged tokens have no relative position"
            return ops.merge_heads(ops.softmax_attention(q, k, v, mask=mask, key_bias=sizes.log()))
        bias = None if self.bias is None else self.bias(grid).to(q.dtype)
        return ops.merge_heads(ops.softmax_attention(q, k, v, bias=bias, mask=mask))
