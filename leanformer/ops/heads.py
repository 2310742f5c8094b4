"""Splitting channels into attention heads and back."""

from __future__ import annotations

from torch import Tensor


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, C) to (B, h, N, C / h); head `a` owns the channels from a C / h to (a + 1) C / h."""
    return x.unflatten(-1, (num_heads, x.shape[-1] // num_heads)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, h, N, d) back to (B, N, h d)."""
    return x.transpose(1, 2).flatten(2)
