"""The one linear attention: softmax replaced by a feature map, so that the sum over keys comes first and cost is
linear."""

from __future__ import annotations

from torch import Tensor

from leanformer.ops.precision import no_autocast


def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 0.0, floor: float = 0.0) -> Tensor:
    """Each query's average of the values, weighted by q . k_j: o_i = q_i (sum_j k_j v_j^T) / (q_i . sum_j k_j + eps).

    The denominator is at least `floor`; below it, no gradient passes through it. One of `eps` and `floor` must be
    positive.

    q is (B, h, N, d), k is (B, h, M, d), v is (B, h, M, e), all after their feature map (non-negative q and k); the
    result is (B, h, N, e) in the dtype of v. A query whose features are all zero gets exactly zero. Sums and the
    division are in float32 whatever the input, so that half-precision inputs cannot overflow. `eps` is added as it is,
    not to a mean over keys: exporters take a constant below 1e-8 for zero and leave it out.
    """
    with no_autocast(q):
        q32, k32, v32 = q.float(), k.float(), v.float()
        summary = k32.transpose(-2, -1) @ v32  # (B, h, d, e)
        weight = q32 @ k32.sum(dim=-2).unsqueeze(-1)  # (B, h, N, 1)
        if eps:
            weight = weight + eps
        if floor:
            weight = weight.clamp(min=floor)
        return ((q32 @ summary) / weight).to(v.dtype)
