"""Focused linear attention (FLatten, https://arxiv.org/abs/2308.00442, section 4): a power map that sharpens the ReLU
features without changing their norm, and a depthwise convolution on the values that restores the rank of the attention
matrix."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanformer import ops
from leanformer.config import register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention.frames import KernelAttention
from leanformer.layers.attention.parts import LocalLinearKernel
from leanformer.layers.site import Grid, Kernel, Site

EPS = 1e-6


@register_config("focused_linear")
class FocusedLinear(KernelAttention):
    """Linear attention on features sharpened by a power, with a learned key position and a local term."""

    power: int = 3
    """Exponent of the focusing map; the paper's p."""
    local_kernel: int = 5
    """Side of the depthwise convolution on the values, odd."""
    normalizer: Literal["mean", "sum"] = "mean"
    """Whether 1e-6 guards the mean weight over the keys, as in the published code since May 2024, or their sum, as when
    the published weights were trained. Keys and shapes are the same; only tokens without active features differ."""

    def __post_init__(self) -> None:
        if self.local_kernel < 1 or self.local_kernel % 2 == 0:
            raise ConfigError(f"local_kernel must be odd and positive to keep the map's size, got {self.local_kernel}")
        if self.power < 1:
            raise ConfigError(f"power must be at least 1, got {self.power}")

    def kernel(self, site: Site) -> Kernel:
        """The kernel for this place."""
        return FocusedKernel(site, self.power, self.local_kernel, self.normalizer)


class FocusedKernel(LocalLinearKernel):
    """phi(q) (phi(k)^T v), normalised by the weights' mean or sum, plus the local term."""

    heads_apart: ClassVar[bool] = False  # the focusing map is normalised over the channels of all heads

    def __init__(
        self, site: Site, power: int = 3, local_kernel: int = 5, normalizer: Literal["mean", "sum"] = "mean"
    ) -> None:
        super().__init__(site, local_kernel)
        self.power = power
        self.normalizer = normalizer
        self.scale = nn.Parameter(torch.zeros(1, 1, site.width))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, key_grid: Grid, mask: Tensor | None = None
    ) -> Tensor:
        """Attend: q is (B, N, C), k and v are (B, M, C), the result is (B, N, C)."""
        assert mask is None, "a linear kernel cannot leave out pairs of tokens"
        q, k = self._features(q), self._features(self.key_position.add_to(k, key_grid))
        q, k, v = (ops.split_heads(t, self.num_heads) for t in (q, k, v))  # (B, h, N, d)
        # parity: 1e-6 added to the mean over M keys is M times that added to their sum.
        out = ops.linear_attention(q, k, v, eps=EPS * k.shape[-2] if self.normalizer == "mean" else EPS)
        return ops.merge_heads(out + self.local(v, grid, key_grid))

    def _features(self, x: Tensor) -> Tensor:
        return ops.focused_map((x.relu().float() + EPS) / F.softplus(self.scale.float()), self.power)
