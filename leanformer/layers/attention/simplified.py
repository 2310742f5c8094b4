"""Simplified linear attention (SLAB, https://arxiv.org/abs/2405.11582, section 3.3): ReLU features, a learned position
on the keys, and a depthwise convolution on the values that returns the local detail a linear kernel averages away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leanformer import ops
from leanformer.config import register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention.frames import KernelAttention
from leanformer.layers.attention.parts import LocalLinearKernel
from leanformer.layers.linear import keep
from leanformer.layers.site import Grid, Kernel, Site


@register_config("simplified_linear")
class SimplifiedLinear(KernelAttention):
    """ReLU linear attention with a learned key position and a local term."""

    local_kernel: int = 5
    """Side of the depthwise convolution on the values, odd."""
    spare_scale: bool = False
    """Keep a scale that nothing reads, as SLAB's CSwin files do, so that they load and are written whole."""

    def __post_init__(self) -> None:
        if self.local_kernel < 1 or self.local_kernel % 2 == 0:
            raise ConfigError(f"local_kernel must be odd and positive to keep the map's size, got {self.local_kernel}")

    def kernel(self, site: Site) -> Kernel:
        """The kernel for this place."""
        return SimplifiedKernel(site, self.local_kernel, self.spare_scale)


class SimplifiedKernel(LocalLinearKernel):
    """relu(q) (relu(k + p)^T v), normalised by the sum of weights, plus the local term."""

    def __init__(self, site: Site, local_kernel: int = 5, spare_scale: bool = False) -> None:
        super().__init__(site, local_kernel)
        self.scale = nn.Parameter(torch.zeros(1, 1, site.width), requires_grad=False) if spare_scale else None

    def keep_heads(self, heads: Sequence[int]) -> Tensor:
        """Keep these heads alone."""
        channels = super().keep_heads(heads)
        if self.scale is not None:
            keep(self, "scale", channels, 2)
        return channels

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, key_grid: Grid, mask: Tensor | None = None
    ) -> Tensor:
        """Attend: q is (B, N, C), k and v are (B, M, C), the result is (B, N, C)."""
        assert mask is None, "a linear kernel cannot leave out pairs of tokens"
        k = self.key_position.add_to(k, key_grid)
        q, k, v = (ops.split_heads(t, self.num_heads) for t in (q.relu(), k.relu(), v))  # (B, h, N, d)
        return ops.merge_heads(ops.linear_attention(q, k, v, eps=1e-6) + self.local(v, grid, key_grid))
