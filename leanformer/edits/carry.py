"""What a new mixer takes over from the one it replaces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from leanformer.layers.attention.additive import AdditiveAttention
from leanformer.layers.attention.frames import Frame, ReducedAttention, SelfAttention

_SAME = ("proj", "value_position", "reduce", "norm")
"""Parts that mean the same in every mixer that has them."""


@dataclass(frozen=True)
class Carried:
    """Names of parameters of a mixer; q, k and v are rows of its projections."""

    names: tuple[str, ...]
    """Those that it has from the mixer before."""
    new: tuple[str, ...]
    """Those with values of their own."""
    left_out: tuple[str, ...]
    """Those of the mixer before that it has no place for."""


def carry(old: nn.Module, new: nn.Module) -> Carried:
    """Fill `new` with what it shares with `old`, which stays as it is but may lend its modules."""
    names = [*_carry_rows(old, new), *_carry_parts(old, new), *_carry_kernel(old, new)]
    ours, theirs = _names(new), _names(old)
    return Carried(
        names=tuple(names),
        new=tuple(name for name in ours if name not in names),
        left_out=tuple(name for name in theirs if name not in names),
    )


def _carry_rows(old: nn.Module, new: nn.Module) -> list[str]:
    mine, theirs = _rows(new), _rows(old)
    names = [name for name in mine if name in theirs and mine[name].shape == theirs[name].shape]
    for name in names:
        mine[name].copy_from(theirs[name])
    return names


def _carry_parts(old: nn.Module, new: nn.Module) -> list[str]:
    """Whole modules, with what earlier edits added to them: a folded norm leaves a bias."""
    names = []
    for name in _SAME:
        part, before = getattr(new, name, None), getattr(old, name, None)
        if part is None or before is None:
            continue
        # A norm may have been swapped or folded; it stays what it became.
        if name == "norm" or part.weight.shape == before.weight.shape:
            new.add_module(name, before)
            names += [f"{name}.{inner}" for inner, _ in before.named_parameters()]
    return names


@torch.no_grad()
def _carry_kernel(old: nn.Module, new: nn.Module) -> list[str]:
    if not (isinstance(old, Frame) and isinstance(new, Frame)):
        return []
    before = dict(old.kernel.named_parameters())  # type: ignore[union-attr]
    names = []
    for name, parameter in new.kernel.named_parameters():  # type: ignore[union-attr]
        if name in before and before[name].shape == parameter.shape:
            parameter.copy_(before[name])
            names.append(f"kernel.{name}")
    return names


@dataclass(frozen=True)
class _Rows:
    layer: nn.Linear
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.stop - self.start, self.layer.in_features

    @torch.no_grad()
    def copy_from(self, other: _Rows) -> None:
        rows, source = slice(self.start, self.stop), slice(other.start, other.stop)
        self.layer.weight[rows] = other.layer.weight[source]
        if other.layer.bias is None:
            if self.layer.bias is not None:
                self.layer.bias[rows] = 0.0
            return
        if self.layer.bias is None:  # a norm was folded into the layer before
            self.layer.bias = nn.Parameter(other.layer.bias.new_zeros(self.layer.out_features))
        self.layer.bias[rows] = other.layer.bias[source]


def _rows(mixer: nn.Module) -> dict[str, _Rows]:
    """Where a mixer projects to queries, keys and values."""
    if isinstance(mixer, SelfAttention):
        return _split(mixer.qkv, "qkv")
    if isinstance(mixer, ReducedAttention):
        return {**_split(mixer.q, "q"), **_split(mixer.kv, "kv")}
    if isinstance(mixer, AdditiveAttention):
        return {**_split(mixer.q, "q"), **_split(mixer.k, "k")}
    return {}


def _split(layer: nn.Linear, names: str) -> dict[str, _Rows]:
    count = layer.out_features // len(names)
    return {name: _Rows(layer, i * count, (i + 1) * count) for i, name in enumerate(names)}


def _names(mixer: nn.Module) -> list[str]:
    """The rows of a mixer, and the names of its other parameters."""
    rows = _rows(mixer)
    layers = {id(part.layer) for part in rows.values()}
    split = {id(p) for module in mixer.modules() if id(module) in layers for p in module.parameters()}
    return [*rows, *(name for name, parameter in mixer.named_parameters() if id(parameter) not in split)]
