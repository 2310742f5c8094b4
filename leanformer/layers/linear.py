"""Linear layers made of others: fewer channels, what is left when attention heads are dropped; and several in one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def head_channels(heads: Sequence[int], head_dim: int) -> Tensor:
    """The channels of heads, (len(heads) head_dim,), as `ops.split_heads` shares them out."""
    return (torch.tensor(heads)[:, None] * head_dim + torch.arange(head_dim)).flatten()


@torch.no_grad()
def keep(module: nn.Module, name: str, index: Tensor, dim: int) -> None:
    """Keep of a parameter what `index` names along `dim`."""
    old = getattr(module, name)
    new = nn.Parameter(old.index_select(dim, index.to(old.device)), requires_grad=old.requires_grad)
    setattr(module, name, new)


def keep_outputs(layer: nn.Linear | nn.Conv1d | nn.Conv2d, index: Tensor, groups: int = 1) -> None:
    """Keep of a layer the outputs that `index` names; of a grouped convolution with what they read, in `groups`."""
    for name in ("weight", "bias"):
        if getattr(layer, name) is not None:
            keep(layer, name, index, 0)
    if isinstance(layer, nn.Linear):
        layer.out_features = len(index)
        return
    layer.out_channels = len(index)
    if layer.groups > 1:
        layer.in_channels, layer.groups = len(index), groups


def keep_inputs(layer: nn.Linear, index: Tensor) -> None:
    """Keep of a linear layer the inputs that `index` names."""
    keep(layer, "weight", index, 1)
    layer.in_features = len(index)


@torch.no_grad()
def stacked(*layers: nn.Linear) -> nn.Linear:
    """One layer that gives what all of them give, side by side; they read the same."""
    first = layers[0]
    rows = sum(layer.out_features for layer in layers)
    biases = [layer.bias for layer in layers]
    biased = any(bias is not None for bias in biases)
    out = nn.Linear(first.in_features, rows, biased, device=first.weight.device, dtype=first.weight.dtype)
    out.weight.copy_(torch.cat([layer.weight for layer in layers]))
    if biased:
        out.bias.copy_(torch.cat([_bias(layer) for layer in layers]))
    return out


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
