"""The one linear attention: softmax replaced by a feature map, so that the sum over keys comes first and cost is
linear."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, eps: float) -> Tensor:
    """Each query's average of the values, weighted by q . k_j: o_i = q_i (sum_j k_j v_j^T) / (q_i . sum_j k_j + eps).

    q is (B, h, N, d), k is (B, h, M, d), v is (B, h, M, e), all after their feature map (non-negative q and k); the
    result is (B, h, N, e) in the dtype of v. A query whose features are all zero gets exactly zero. Sums and the
    division are in float32 whatever the input, and keys are scaled by 1 / M first, so that half-precision inputs cannot
    overflow.
    """
    num_keys = k.shape[-2]
    with _full_precision(q):
        q32, k32, v32 = q.float(), k.float() / num_keys, v.float()
        summary = k32.transpose(-2, -1) @ v32  # (B, h, d, e)
        weight = q32 @ k32.sum(dim=-2).unsqueeze(-1)  # (B, h, N, 1)
        return ((q32 @ summary) / (weight + eps / num_keys)).to(v.dtype)


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    kind = x.device.type
    active = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if active else nullcontext()
