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

    Attention of modules that do not declare `macs` (those of other libraries) is not seen.
    """
    modules = dict(model.named_modules())
    macs = dict.fromkeys(_COUNTS, 0)
    for name, count in count_modules(model, image_size).items():
        macs[_kind(modules[name])] += count  # type: ignore[index]
    return Cost(parameters=sum(parameter.numel() for parameter in model.parameters()), **macs)


def count_modules(model: nn.Module, image_size: int | tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates on one image of `image_size` by the name of the module that does them.

    A copy runs on tensors without data, so nothing is computed and large images cost no memory; the model itself may be
    on the meta device.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    twin = copy.deepcopy(model).eval()
    counts: dict[str, int] = {}
    for name, module in twin.named_modules():
        kind = _kind(module)
        if kind is not None:
            counts[name] = 0
            module.register_forward_hook(_adder(counts, name, _COUNTS[kind]))
    first = next(model.parameters(), torch.empty(0))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        twin(torch.zeros(1, 3, height, width, device=first.device, dtype=first.dtype))
    return counts


def _adder(
    counts: dict[str, int], name: str, count: Callable[..., int]
) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def add(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        counts[name] += count(module, args, out)

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


def _kind(module: nn.Module) -> str | None:
    """The field of `Cost` that a module's multiply-accumulates belong to, if it does any itself."""
    if isinstance(module, nn.Linear):
        return "linear_macs"
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return "conv_macs"
    return "attention_macs" if hasattr(module, "macs") else None


_COUNTS = {"linear_macs": _linear_macs, "conv_macs": _conv_macs, "attention_macs": _attention_macs}
