"""Edits of norms: folding affine norms into the linear layers around them (SLAB, https://arxiv.org/abs/2405.11582,
section 3.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from leanformer.edits.edit import Edit, EditReport, edit
from leanformer.edits.norm_sites import FoundNorm, affine_of, find_norms, frozen, is_affine, refuse_unfinished, why_none
from leanformer.errors import EditError
from leanformer.layers.norm import FrozenAffine
from leanformer.layers.site import NormSite


@edit("fold_norms")
class FoldNorms(Edit):
    """Fold every norm that is affine in eval mode into its linear neighbours, exactly, biases included.

    Norms behind a layer fold backward into it, norms in front fold forward. Zero-padded windows then pad with the
    vector that the norm maps to zero. A norm that cannot be folded exactly becomes a `FrozenAffine`; `frozen` records
    those. LayerNorms depend on each input and stay.

    Where a backbone ends with a norm of its own (PVTv2), that norm folds into the classifier: the scores stay, the
    backbone's last map is no longer normalised.
    """

    exact: ClassVar[bool] = True
    frozen: tuple[str, ...] = ()
    """Names of the norms that became a `FrozenAffine`; found while applying."""

    def apply(self, model: nn.Module) -> EditReport:
        """Fold in place; the model is meant for eval mode from now on."""
        found = find_norms(model)
        foldable = _foldable(found)
        kept = tuple(item.name for item in foldable if not _can_fold(item.site))
        if all(item.name in kept and isinstance(item.norm, FrozenAffine) for item in foldable):
            raise EditError(f"fold_norms: nothing to fold, {why_none(found, 'fold')}")
        refuse_unfinished("fold_norms", foldable, "folding")
        done = replace(self, frozen=kept)
        done._fold(foldable)
        return _report(done, found, foldable)

    def replay(self, model: nn.Module) -> None:
        """Remove the norms and add the biases and padding vectors that the saved model has."""
        self._fold(_foldable(find_norms(model)))

    @torch.no_grad()
    def _fold(self, items: list[FoundNorm]) -> None:
        for item in items:
            if item.name in self.frozen:
                item.replace(frozen(item.norm))
                continue
            site = item.site
            scale, shift = (t.double() for t in affine_of(site.norm))
            if site.before is not None:
                _fold_backward(site.before, scale, shift)
            for layer in site.after:
                _fold_forward(layer, scale, shift)
            for padding in site.paddings:
                padding.set_padding((-shift / scale).to(site.after[0].weight.dtype))
            item.replace(nn.Identity())


def _foldable(found: list[FoundNorm]) -> list[FoundNorm]:
    """The norms that are affine, and those that `FreezeNorms` made a fixed scale and shift."""
    return [item for item in found if is_affine(item.norm) or isinstance(item.norm, FrozenAffine)]


def _can_fold(site: NormSite) -> bool:
    if site.before is None and not site.after:
        return False
    if any(isinstance(layer, nn.Conv2d) and (layer.groups > 1 or layer.padding != (0, 0)) for layer in site.after):
        return False  # what the convolution pads with zeros would have to be padded with -shift / scale
    if not site.paddings:
        return True
    scale, shift = affine_of(site.norm)
    return bool((shift / scale).isfinite().all())  # the padding vector exists


def _fold_forward(layer: nn.Linear | nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """W (a x + b) + c = (W a) x + (W b + c); for a convolution only without padding."""
    weight = layer.weight.double()
    if isinstance(layer, nn.Conv2d):
        assert layer.groups == 1 and not any(layer.padding), "a zero-padded convolution does not commute with a shift"
        added = torch.einsum("oihw,i->o", weight, shift)
        scaled = weight * scale[None, :, None, None]
    else:
        added, scaled = weight @ shift, weight * scale
    _set(layer, scaled, added if layer.bias is None else layer.bias.double() + added)


def _fold_backward(layer: nn.Linear | nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """a (W x + c) + b = (a W) x + (a c + b)."""
    weight = layer.weight.double()
    bias = shift if layer.bias is None else scale * layer.bias.double() + shift
    _set(layer, weight * scale.view(-1, *[1] * (weight.ndim - 1)), bias)


def _set(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    dtype = layer.weight.dtype
    layer.weight.copy_(weight.to(dtype))
    if layer.bias is None:
        layer.bias = nn.Parameter(bias.to(dtype))
    else:
        layer.bias.copy_(bias.to(dtype))


def _report(done: FoldNorms, found: list[FoundNorm], foldable: list[FoundNorm]) -> EditReport:
    folded = [item for item in foldable if item.name not in done.frozen]
    names = {id(item) for item in foldable}
    left = [item for item in found if id(item) not in names and not isinstance(item.site.norm, nn.Identity)]
    lines = [f"folded {len(folded)} of {len(foldable) + len(left)} norms into their neighbouring linear layers"]
    padded = sum(len(item.site.paddings) for item in folded)
    if padded:
        lines.append(f"{padded} places pad, where they must, with the vector that their folded norm maps to zero")
    lines += [f"{name} cannot be folded exactly and stays as a fixed scale and shift" for name in done.frozen]
    if left:
        kinds = sorted({type(item.site.norm).__name__ for item in left})
        lines.append(f"{len(left)} norms stay ({', '.join(kinds)}): they depend on each input")
    details = {
        "folded": [item.name for item in folded],
        "frozen": list(done.frozen),
        "left": [item.name for item in left],
    }
    return EditReport(edit=done, lines=tuple(lines), details=details)
