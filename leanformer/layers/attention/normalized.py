"""Normalised linear attention (L2ViT, https://arxiv.org/abs/2501.16182): ReLU features, a learned temperature for each
head, and a denominator that cannot get small."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leanformer import ops
from leanformer.config import register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention.frames import KernelAttention
from leanformer.layers.attention.parts import LinearKernel
from leanformer.layers.linear import keep
from leanformer.layers.site import Grid, Kernel, Site


@register_config("normalized_linear")
class NormalizedLinear(KernelAttention):
    """ReLU linear attention with a temperature for each head and a floor under the sum of weights."""

    floor: float = 100.0
    """The least sum of weights to divide by. It is not scaled by the number of keys, so that its effect depends on the
    resolution; published weights are made for 100."""

    def __post_init__(self) -> None:
        if self.floor <= 0.0:
            raise ConfigError(
                f"floor must be positive, or tokens without active features divide by 0; got {self.floor}"
            )

    def kernel(self, site: Site) -> Kernel:
        """The kernel for this place."""
        return NormalizedKernel(site, self.floor)


class NormalizedKernel(LinearKernel):
    """temperature * relu(q) (relu(k)^T v) / max(sum of weights, floor)."""

    def __init__(self, site: Site, floor: float = 100.0) -> None:
        super().__init__(site)
        self.floor = floor
        head_dim = site.width // site.num_heads
        # None once it is part of the projection behind.
        self.temperature: nn.Parameter | None = nn.Parameter(torch.full((site.num_heads, 1, 1), head_dim**-0.5))

    def keep_heads(self, heads: Sequence[int]) -> Tensor:
        """Keep these heads alone, with their temperatures."""
        if self.temperature is not None:
            keep(self, "temperature", torch.tensor(heads), 0)
        return super().keep_heads(heads)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, key_grid: Grid, mask: Tensor | None = None
    ) -> Tensor:
        """Attend: q is (B, N, C), k and v are (B, M, C), the result is (B, N, C)."""
        assert mask is None, "a linear kernel cannot leave out pairs of tokens"
        q, k, v = (ops.split_heads(t, self.num_heads) for t in (q.relu(), k.relu(), v))  # (B, h, N, d)
        out = ops.linear_attention(q, k, v, floor=self.floor)
        return ops.merge_heads(out if self.temperature is None else out * self.temperature.to(out.dtype))
