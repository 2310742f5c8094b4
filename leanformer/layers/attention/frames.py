"""Frames: the projections around a (q, k, v) kernel. The site chooses the frame, the config the kernel."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from leanformer.layers.site import Grid, Kernel, Site, TokenMixer


class AttentionConfig:
    """Base of the configs of attentions."""

    kind: ClassVar[str]
    takes_mask: ClassVar[bool] = False
    """Whether the attention can leave out pairs of tokens, as shifted windows ask."""

    def build(self, site: Site) -> TokenMixer:
        """The mixer for this place."""
        raise NotImplementedError


class KernelAttention(AttentionConfig):
    """Base of the configs that are a (q, k, v) kernel inside a frame."""

    def kernel(self, site: Site) -> Kernel:
        """The kernel for this place."""
        raise NotImplementedError

    def build(self, site: Site) -> TokenMixer:
        """The kernel in the frame that the site asks for."""
        return SelfAttention(site.dim, self.kernel(site), site.qkv_bias)


class SelfAttention(nn.Module):
    """One fused projection to queries, keys and values, a kernel, and the output projection."""

    def __init__(self, dim: int, kernel: Kernel, qkv_bias: bool = True) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.kernel = kernel
        self.proj = nn.Linear(dim, dim)

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that read x first."""
        return (self.qkv,)

    def forward(self, x: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """Mix x, (B, N, C), the tokens of a map of size `grid` (prefix tokens in front)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        out = self.kernel(q, k, v, grid) if mask is None else self.kernel(q, k, v, grid, mask)
        return self.proj(out)
