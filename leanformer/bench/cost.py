"""What a model costs on paper: parameters and multiply-accumulates, counted from its modules.

Counting operators would miss attention: torch's FLOP counter sees nothing inside the fused CPU kernel. So each
attention kernel declares its own `macs(num_queries, num_keys)`, each mixer without a kernel its `macs(num_tokens)`, and
linear layers and convolutions follow from their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters, and multiply-accumulates of one forward pass of one image."""

    parameters: int
    linear_macs: int
    conv_macs: int
    attention_macs: int
    """Of the attention alone: neither projections nor convolutions on the values."""

    @property
    def macs(self) -> int:
        """All multiply-accumulates; norms, activations, softmax and additions are not counted."""
        return self.linear_macs + self.conv_macs + self.attention_macs


def count_cost(model: nn.Module, image_size: int | tuple[int, int]) -> Cost:
    """The cost of `model` on one image of `image_size`.

    A copy runs on tensors without data, so nothing is computed and large images cost no memory. Attention of modules
    that do not declare `macs` (those of other libraries) is not seen.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    twin = copy.deepcopy(model).eval()
    counts = {"linear_macs": 0, "conv_macs": 0, "attention_macs": 0}
    for module in twin.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(_adder(counts, "linear_macs", _linear_macs))
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            module.register_forward_hook(_adder(counts, "conv_macs", _conv_macs))
        elif hasattr(module, "macs"):
            module.register_forward_hook(_adder(counts, "attention_macs", _attention_macs))
    first = next(model.parameters(), torch.empty(0))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        twin(torch.zeros(1, 3, height, width, device=first.device, dtype=first.dtype))
    return Cost(parameters=sum(parameter.numel() for parameter in model.parameters()), **counts)


def _adder(
    counts: dict[str, int], key: str, count: Callable[[Any, tuple[Any, ...], Tensor], int]
) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def add(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        counts[key] += count(module, args, out)

    return add


def _linear_macs(layer: nn.Linear, args: tuple[Any, ...], out: Tensor) -> int:
    return out.numel() * layer.in_features


def _conv_macs(layer: nn.Conv1d | nn.Conv2d, args: tuple[Any, ...], out: Tensor) -> int:
    return out.numel() // layer.out_channels * layer.weight.numel()


def _attention_macs(module: Any, args: tuple[Any, ...], out: Tensor) -> int:
    """Of a kernel, called with (q, k, ...), or of a mixer without one, called with (x, grid, ...)."""
    x, other = args[0], args[1]  # (B, N, C) and a kernel's (B, M, C), B counting windows as well
    count = module.macs(x.shape[1], other.shape[1]) if isinstance(other, Tensor) else module.macs(x.shape[1])
    return x.shape[0] * count
