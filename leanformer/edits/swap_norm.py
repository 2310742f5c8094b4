"""Other norms for a trained model, which begin as near to the old ones as they can (the way of SLAB,
https://arxiv.org/abs/2405.11582, section 3.2, for a model that has been trained already)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leanformer.edits.edit import Edit, EditReport, edit
from leanformer.edits.norm_sites import FoundNorm, affine_of, find_norms, is_affine, is_folded
from leanformer.errors import ConfigError, EditError
from leanformer.layers.norm import (
    NormConfig,
    Place,
    PRepBN,
    ProgressiveNorm,
    RepBatchNorm,
    RepBN,
    config_of,
)


@edit("swap_norm")
class SwapNorm(Edit):
    """Replace the norms of some places, carrying over what means the same in both.

    A norm that becomes the start of `PRepBN` is kept as it is, its eps too: in train mode, at `norm_progress` 1, the
    model computes what it did. Between batch norm, RepBN and PRepBN the statistics and the function of eval mode are
    kept. Everything else changes the model: scales and shifts are carried, and it needs training.

    A new RepBN begins with alpha 0, as the batch norm that it contains.
    """

    to: NormConfig = PRepBN()
    where: tuple[Place, ...] = ("block",)
    """Kinds of places, as the fields of `Norms` call them: block, stem, downsample, reduction, final."""

    def __post_init__(self) -> None:
        if not self.where or len(set(self.where)) < len(self.where):
            raise ConfigError(f"where names places, each once, got {self.where}")

    def apply(self, model: nn.Module) -> EditReport:
        """Swap in place."""
        swaps = self._plan(model)
        for swap in swaps:
            swap.found.replace(swap.norm)
        return EditReport(
            edit=self,
            lines=(f"swapped {len(swaps)} norms ({', '.join(self.where)}) for {_name(self.to)}", *_effects(swaps)),
            details={
                "swapped": [swap.found.name for swap in swaps],
                "carried": {swap.found.name: swap.carried for swap in swaps},
            },
        )

    def _plan(self, model: nn.Module) -> list[_Swap]:
        found = find_norms(model)
        places = {item.site.place: None for item in found if item.site.place is not None}
        for place in self.where:
            if place not in places:
                known = f"its norms are at {', '.join(places)}" if places else "it has none that can be chosen"
                raise EditError(f"swap_norm: this model has no norm at {place!r}; {known}")
        return [self._swap(item) for item in found if item.site.place in self.where]

    def _swap(self, item: FoundNorm) -> _Swap:
        old = item.norm
        if is_folded(old):
            raise EditError(
                f"swap_norm: {item.name} has been folded or frozen, so there is no norm left to swap; "
                "swap norms in the model before it was folded"
            )
        before = config_of(old)
        if before is None:
            raise EditError(f"swap_norm: {item.name} is a {type(old).__name__}, which it cannot carry over")
        new = _successor(old, self.to)
        if config_of(new) == before:
            raise EditError(
                f"swap_norm: {item.name} is {_name(self.to)} already; leave out {item.site.place!r}, or take another"
            )
        device = next(old.parameters()).device
        return _Swap(item, new.to(device).train(old.training), _carried(old, new))


@dataclass(frozen=True)
class _Swap:
    found: FoundNorm
    norm: nn.Module
    carried: str
    """"start", "eval" or "affine": what the new norm shares with the old one."""


def _carried(old: nn.Module, new: nn.Module) -> str:
    if is_affine(old) and is_affine(new):
        return "eval"
    return "start" if isinstance(new, ProgressiveNorm) and new.start is old else "affine"


def _successor(old: nn.Module, to: NormConfig) -> nn.Module:
    """The norm that `to` builds, as near to `old` as it can be; `old` is untouched, but may be a part of it."""
    start, rep = (old.start, old.rep) if isinstance(old, ProgressiveNorm) else (old, old)
    if isinstance(to, PRepBN):
        kept = type(config_of(start)) is type(to.start)
        inner = rep if config_of(rep) == RepBN(eps=to.eps) else _successor(rep, RepBN(eps=to.eps))
        assert isinstance(inner, RepBatchNorm)
        return ProgressiveNorm(start if kept else _successor(start, to.start), inner)
    weight = next(old.parameters())
    new = to.build(_width(old)).to(weight)
    source = rep if is_affine(new) else start
    if is_affine(new) and is_affine(source):
        _keep_function(source, new)
    else:
        _keep_affine(source, new)
    return new


def _width(norm: nn.Module) -> int:
    if isinstance(norm, ProgressiveNorm):
        return _width(norm.rep)
    return _bearer(norm).weight.numel()  # type: ignore[union-attr, operator]


def _bearer(norm: nn.Module) -> nn.Module:
    """The module that holds weight, bias and statistics."""
    return norm.bn if isinstance(norm, RepBatchNorm) else norm


@torch.no_grad()
def _keep_function(source: nn.Module, new: nn.Module) -> None:
    """The statistics of `source`, and weights by which eval mode computes what it did."""
    scale, shift = affine_of(source)
    old, bn = _bearer(source), _bearer(new)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        getattr(bn, name).copy_(getattr(old, name))
    bn.weight.copy_(scale * (bn.running_var + bn.eps).sqrt())  # type: ignore[operator, union-attr]
    bn.bias.copy_(shift + scale * bn.running_mean)  # type: ignore[operator, union-attr]
    _rest(new)


@torch.no_grad()
def _keep_affine(source: nn.Module, new: nn.Module) -> None:
    """The scales and shifts behind the normalisation."""
    old, bearer = _bearer(source), _bearer(new)
    for name in ("weight", "bias"):
        mine: Tensor | None = getattr(bearer, name, None)
        theirs: Tensor | None = getattr(old, name, None)
        if mine is not None and theirs is not None:
            mine.copy_(theirs)
    _rest(new)


def _rest(norm: nn.Module) -> None:
    if isinstance(norm, RepBatchNorm):
        norm.alpha.zero_()


def _name(config: NormConfig) -> str:
    return type(config).__name__


def _effects(swaps: list[_Swap]) -> list[str]:
    kinds = {swap.carried for swap in swaps}
    lines = []
    if "start" in kinds:
        lines.append(
            "they start as the norms that were there: in train mode, at norm_progress 1, the model computes what it "
            "did; in eval mode the new RepBN runs, whose statistics are those of no data yet, so train it "
            "(Scheduled(what='norm_progress', ...), which the default recipe has) before it is evaluated"
        )
    if "eval" in kinds:
        lines.append("the function of eval mode and the statistics are kept")
    if "affine" in kinds:
        lines.append("scales and shifts are carried over, the function is not: train the model")
    return lines
