"""Additive attention: one global query, gathered from all tokens, that every key answers element by element."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from leanformer.ops.precision import no_autocast

_FLOOR = 1e-12
"""The least length that scores are divided by."""
_SHORTEST = 1e-4
"""The least length that tokens are divided by: the direction of one that is zero but for rounding is noise, and its
gradient without bound. Places that windows and stripes pad are such tokens while biases are zero."""


def unit_length(x: Tensor) -> Tensor:
    """x over its Euclidean length along the channels, in the dtype of x. The length is in float32 whatever the input,
    and counts as 1e-4 where it is less, so that zero stays zero."""
    # parity: published with 1e-12, which differs only for tokens shorter than 1e-4.
    return F.normalize(x.float(), dim=-1, eps=_SHORTEST).to(x.dtype)


def additive_attention(q: Tensor, k: Tensor, weight: Tensor | None) -> Tensor:
    """The global query times each key, element by element: o_i = (sum_j a_j q_j) * k_i.

    q and k are (B, N, C), the result too, in the dtype of k. The shares a of the tokens are q `weight` / sqrt(C) with
    `weight` (C, 1), signed, and of length 1 over the tokens; without `weight` every share is 1. Scores and sums are in
    float32 whatever the input.
    """
    with no_autocast(q):
        q32 = q.float()
        if weight is None:
            total = q32.sum(dim=1, keepdim=True)
        else:
            scores = (q32 @ weight.float()) * q.shape[-1] ** -0.5  # (B, N, 1)
            total = F.normalize(scores, dim=1, eps=_FLOOR).transpose(1, 2) @ q32  # (B, 1, C)
        return (total * k).to(k.dtype)
