"""Feature maps for linear attention."""

from __future__ import annotations

import torch
from torch import Tensor


def focused_map(x: Tensor, power: int) -> Tensor:
    """FLatten's focusing map phi(u) = u^p |u| / |u^p| (https://arxiv.org/abs/2308.00442, section 4.2), for u > 0.

    `x` is (..., C) with the heads still joined: both norms are over all C channels of a token. The power is taken of
    u / max u, which is the same function and keeps tokens of tiny features finite (u^p alone underflows from p = 4 on).
    Computed and returned in float32.
    """
    x = x.float()
    peak = x.amax(dim=-1, keepdim=True)
    unit = x / peak
    powered = unit**power
    return powered * (peak * unit.norm(dim=-1, keepdim=True) / torch.linalg.vector_norm(powered, dim=-1, keepdim=True))
