"""Softmax attention, through torch's fused kernel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias + mask) v.

    q is (B, h, N, d), k and v are (B, h, M, d); the result is (B, h, N, d). `bias` is (h, N, M). `mask` is (W, N, M)
    and additive: batch entry i uses mask i modulo W, which is the order in which `split_windows` lays out W windows per
    image. `key_bias` is (B, M), the same for every query and head, and comes without the other two.
    """
    if key_bias is not None:
        assert bias is None and mask is None, "a bias of the keys comes alone"
        return F.scaled_dot_product_attention(q, k, v, attn_mask=key_bias[:, None, None].to(q.dtype))
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.unsqueeze(0))
    num_windows, (_, num_heads, num_queries, _) = mask.shape[0], q.shape
    added = mask.to(q.dtype).unsqueeze(1)  # (W, 1, N, M)
    added = added.expand(-1, num_heads, -1, -1) if bias is None else added + bias
    # Windows join the heads, so that one mask serves every image without being copied per image.
    q, k, v = (t.reshape(-1, num_windows * num_heads, *t.shape[2:]) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=added.reshape(1, -1, num_queries, added.shape[-1]))
    return out.reshape(-1, num_heads, *out.shape[2:])
