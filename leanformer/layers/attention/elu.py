"""Plain linear attention (https://arxiv.org/abs/2006.16236, section 3.2): features elu(x) + 1 and nothing else. The
baseline that tells what local terms and key positions of later systems add."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from leanformer import ops
from leanformer.config import register_config
from leanformer.layers.attention.frames import KernelAttention
from leanformer.layers.attention.parts import LinearKernel
from leanformer.layers.site import Grid, Kernel, Site


@register_config("elu_linear")
class EluLinear(KernelAttention):
    """Linear attention on the features elu(x) + 1."""

    def kernel(self, site: Site) -> Kernel:
        """The kernel for this place."""
        return EluKernel(site)


class EluKernel(LinearKernel):
    """phi(q) (phi(k)^T v), normalised by the sum of weights."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, key_grid: Grid, mask: Tensor | None = None
    ) -> Tensor:
        """Attend: q is (B, N, C), k and v are (B, M, C), the result is (B, N, C)."""
        assert mask is None, "a linear kernel cannot leave out pairs of tokens"
        # In float32, for half precision rounds elu(x) + 1 to zero from x = -7 on.
        q, k = (F.elu(t.float()) + 1.0 for t in (q, k))
        q, k, v = (ops.split_heads(t, self.num_heads) for t in (q, k, v))  # (B, h, N, d)
        return ops.merge_heads(ops.linear_attention(q, k, v, eps=1e-6))
