"""A last block that computes the tokens that are read, and no others: they look at all tokens, and nothing behind the
attention mixes tokens."""

from __future__ import annotations

from torch import Tensor, nn

from leanformer.layers.attention.frames import SelfAttention
from leanformer.layers.branch import Body, Branch
from leanformer.layers.site import Grid


class FirstTokens(nn.Module):
    """The first `count` tokens."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, count, C); the grid is not used."""
        return x[:, : self.count]

    def extra_repr(self) -> str:
        """The number of tokens."""
        return f"count={self.count}"


class ReadAttention(nn.Module):
    """Softmax attention of the first `count` tokens to all.

    Args:
        whole: the attention of all tokens; its weights and its parts are taken over.
    """

    def __init__(self, whole: SelfAttention, count: int) -> None:
        super().__init__()
        self.count = count
        self.kernel = whole.kernel
        self.proj = whole.proj
        self.q, self.kv = _split(whole.qkv)

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that read x first."""
        return self.q, self.kv

    def exit_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that give the result."""
        return () if self.proj is None else (self.proj,)

    def describe(self) -> str:
        """What users call it."""
        return f"{type(self.kernel).__name__.removesuffix('Kernel')} of the tokens that are read"

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, count, C)."""
        return self.attend_sized(x, grid, None)[0]

    def attend_sized(self, x: Tensor, grid: Grid, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same for tokens that stand for as many as `sizes` (B, N) says, and their keys, (B, N, C)."""
        k, v = self.kv(x).chunk(2, dim=-1)
        out = self.kernel(self.q(x[:, : self.count]), k, v, grid, grid, sizes=sizes)  # type: ignore[call-arg]
        return (out if self.proj is None else self.proj(out)), k


class ReadBranch(Branch):
    """A branch that gives the first `count` tokens alone.

    Args:
        branch: its parts are taken over, under their names, but for those of its body.
        body: gives the updates of the first `count` tokens, (B, count, C).
    """

    def __init__(self, branch: Branch, body: nn.Module, count: int) -> None:
        super().__init__(body, norm=branch.norm, layer_scale=branch.layer_scale)
        self.drop_path = branch.drop_path
        self.count = count

    def forward(self, x: Tensor, grid: Grid, body: Body | None = None) -> Tensor:
        """(B, N, C) to (B, count, C), with `body` in place of the branch's own, if one is given."""
        return x[:, : self.count] + self.update(x, grid, body)


def _split(qkv: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """The layers that give queries, and keys and values."""
    dim, width = qkv.in_features, qkv.out_features // 3
    layers = []
    for rows in (slice(0, width), slice(width, None)):
        weight = qkv.weight[rows].detach().clone()
        layer = nn.Linear(dim, len(weight), bias=qkv.bias is not None, device=weight.device, dtype=weight.dtype)
        layer.weight = nn.Parameter(weight, requires_grad=qkv.weight.requires_grad)
        if qkv.bias is not None:
            layer.bias = nn.Parameter(qkv.bias[rows].detach().clone(), requires_grad=qkv.bias.requires_grad)
        layers.append(layer)
    return layers[0], layers[1]
