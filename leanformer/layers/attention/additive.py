"""Efficient additive attention (SwiftFormer, https://arxiv.org/abs/2303.15446, section 3.1): a global query gathered
from all tokens meets every key element by element. Keys act as the values, and cost is linear in the tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from leanformer import ops
from leanformer.config import register_config
from leanformer.layers.attention.frames import AttentionConfig
from leanformer.layers.conv import DepthwiseConv
from leanformer.layers.linear import stacked
from leanformer.layers.site import Grid, Site, TokenMixer

TokenNorm = Literal["l2", "ones"]


@register_config("additive")
class Additive(AttentionConfig):
    """Efficient additive attention.

    Heads are not split. Each query needs a key of its own, so a site's reduction is left out: the cost is linear
    without it.
    """

    token_norm: TokenNorm = "l2"
    """How the shares of the tokens in the global query are normalised: "l2" gives them length 1 over the tokens; "ones"
    makes each 1, as the weights published before July 2023 and those on Hugging Face need it."""

    def mixer(self, site: Site) -> TokenMixer:
        """The mixer for this place."""
        return AdditiveAttention(site, self.token_norm)


class AdditiveAttention(nn.Module):
    """Projections to queries and keys of length 1, the global query times the keys, a linear layer, the query added
    back, and the output projection.

    In a stripe (CSwin) the output projection is left to what joins the stripes, and the local position is that of the
    keys.
    """

    def __init__(self, site: Site, token_norm: TokenNorm = "l2") -> None:
        super().__init__()
        width = site.width
        self.token_norm: TokenNorm = token_norm
        self.q = nn.Linear(site.dim, width, bias=site.qkv_bias)
        self.k = nn.Linear(site.dim, width, bias=site.qkv_bias)
        self.qk: nn.Linear | None = None  # both, once they are fused
        # Files hold it for "ones" too, where nothing reads it.
        self.token_weight = nn.Parameter(torch.randn(width, 1), requires_grad=token_norm == "l2")
        self.context = nn.Linear(width, width)
        self.value_position = DepthwiseConv(width, 3) if site.value_position else None
        self.proj = nn.Linear(width, width) if site.out_proj else None

    def describe(self) -> str:
        """What users call it."""
        return "Additive" if self.token_norm == "l2" else "Additive (equal shares)"

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that read x first."""
        return (self.q, self.k) if self.qk is None else (self.qk,)

    def fuse(self) -> None:
        """Project to queries and keys at once."""
        self.qk = stacked(self.q, self.k)
        del self.q, self.k

    def exit_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that give the result; none where something else projects it."""
        return () if self.proj is None else (self.proj,)

    def macs(self, num_tokens: int) -> int:
        """Multiply-accumulates of the scores and of the global query for one image."""
        sums = 2 if self.token_norm == "l2" else 0
        return sums * num_tokens * self.context.in_features

    def forward(self, x: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """Mix x, (B, N, C), the tokens of a map of size `grid` (prefix tokens in front)."""
        assert mask is None, "a global query cannot leave out pairs of tokens"
        q, k = (self.q(x), self.k(x)) if self.qk is None else self.qk(x).chunk(2, dim=-1)
        q, k = ops.unit_length(q), ops.unit_length(k)
        weight = self.token_weight if self.token_norm == "l2" else None
        out = self.context(ops.additive_attention(q, k, weight)) + q
        if self.value_position is not None:
            out = out + self.value_position(k, grid)
        return out if self.proj is None else self.proj(out)
