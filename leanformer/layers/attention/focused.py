"""Focused linear attention (FLatten, https://arxiv.org/abs/2308.00442, section 4): a power map that sharpens the ReLU
features without changing their norm, and a depthwise convolution on the values that restores the rank of the attention
matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanformer import ops
from leanformer.config import register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention.frames import KernelAttention
from leanformer.layers.attention.parts import LinearKernel
from leanformer.layers.site import Grid, Kernel, Site

EPS = 1e-6


@register_config("focused_linear")
class FocusedLinear(KernelAttention):
    """Linear attention on features sharpened by a power, with a learned key position and a local term."""

    power: int = 3
    """Exponent of the focusing map; the paper's p."""
    local_kernel: int = 5
    """Side of the depthwise convolution on the values, odd."""

    def __post_init__(self) -> None:
        if self.local_kernel < 1 or self.local_kernel % 2 == 0:
            raise ConfigError(f"local_kernel must be odd and positive to keep the map's size, got {self.local_kernel}")
        if self.power < 1:
            raise ConfigError(f"power must be at least 1, got {self.power}")

    def kernel(self, site: Site) -> Kernel:
        """The kernel for this place."""
        return FocusedKernel(site.dim, site.num_heads, site.grid, site.prefix_tokens, self.power, self.local_kernel)


class FocusedKernel(LinearKernel):
    """phi(q) (phi(k)^T v), normalised by the mean weight, plus the local term."""

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, prefix_tokens: int = 0, power: int = 3, local_kernel: int = 5
    ) -> None:
        super().__init__(dim, num_heads, grid, prefix_tokens, local_kernel)
        self.power = power
        self.scale = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """Attend: q, k and v are (B, N, C), the result is (B, N, C)."""
        assert mask is None, "a linear kernel cannot leave out pairs of tokens"
        q, k = self._features(q), self._features(self.key_position.add_to(k, grid))
        q, k, v = (ops.split_heads(t, self.num_heads) for t in (q, k, v))  # (B, h, N, d)
        # parity: the published normaliser adds 1e-6 to the mean over keys, which is M times that to their sum.
        out = ops.linear_attention(q, k, v, eps=EPS * k.shape[-2])
        return ops.merge_heads(out + self.local(v, grid))

    def _features(self, x: Tensor) -> Tensor:
        return ops.focused_map((x.relu().float() + EPS) / F.softplus(self.scale.float()), self.power)
