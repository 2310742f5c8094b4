"""Edits of norms: folding affine norms into the linear layers around them (SLAB, https://arxiv.org/abs/2405.11582,
section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from leanformer.edits.edit import Edit, EditReport, edit
from leanformer.errors import EditError
from leanformer.layers.norm import FrozenAffine, ProgressiveNorm, RepBatchNorm, batch_norm_affine
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

    frozen: tuple[str, ...] = ()
    """Names of the norms that became a `FrozenAffine`; found while applying."""

    def apply(self, model: nn.Module) -> EditReport:
        """Fold in place; the model is meant for eval mode from now on."""
        found = _find(model)
        foldable = [item for item in found if _is_affine(item.site.norm)]
        if not foldable:
            raise EditError(f"fold_norms: nothing to fold, {_why_not(found)}")
        _refuse_unfinished(foldable)
        frozen = tuple(item.name for item in foldable if not _can_fold(item.site))
        replace(self, frozen=frozen)._fold(foldable)
        return _report(replace(self, frozen=frozen), found, foldable)

    def replay(self, model: nn.Module) -> None:
        """Remove the norms and add the biases and padding vectors that the saved model has."""
        self._fold([item for item in _find(model) if _is_affine(item.site.norm)])

    @torch.no_grad()
    def _fold(self, items: list[_Found]) -> None:
        for item in items:
            site = item.site
            scale, shift = (t.double() for t in _affine(site.norm))
            if item.name in self.frozen:
                shape = (-1, 1, 1) if isinstance(site.norm, nn.BatchNorm2d) else (-1,)
                frozen = FrozenAffine(scale.view(shape).float(), shift.view(shape).float())
                setattr(site.owner, site.attribute, frozen)
                continue
            if site.before is not None:
                _fold_backward(site.before, scale, shift)
            for layer in site.after:
                _fold_forward(layer, scale, shift)
            for padding in site.paddings:
                padding.set_padding((-shift / scale).to(site.after[0].weight.dtype))
            setattr(site.owner, site.attribute, nn.Identity())


@dataclass(frozen=True)
class _Found:
    name: str
    site: NormSite


def _find(model: nn.Module) -> list[_Found]:
    found = []
    for prefix, module in model.named_modules():
        if not hasattr(module, "norm_sites"):
            continue
        names = {id(child): name for name, child in module.named_modules()}
        for site in module.norm_sites():  # type: ignore[operator]
            inner = ".".join(part for part in (prefix, names[id(site.owner)], site.attribute) if part)
            found.append(_Found(inner, site))
    return found


def _is_affine(norm: nn.Module) -> bool:
    return isinstance(norm, (RepBatchNorm, ProgressiveNorm, nn.BatchNorm1d, nn.BatchNorm2d))


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return batch_norm_affine(norm)
    return norm.affine()  # type: ignore[operator]


def _why_not(found: list[_Found]) -> str:
    folded = nn.Identity, FrozenAffine
    kinds = sorted({type(item.site.norm).__name__ for item in found if not isinstance(item.site.norm, folded)})
    if not kinds:
        return "this model has no norm, or its norms are folded already"
    return (
        f"this model has {', '.join(kinds)}, which depends on each input; "
        "only RepBN, PRepBN and batch norms fold: train a model with them (norms=Norms(block=PRepBN()))"
    )


def _refuse_unfinished(items: list[_Found]) -> None:
    for item in items:
        norm = item.site.norm
        if isinstance(norm, ProgressiveNorm) and float(norm.progress) > 0.0:
            raise EditError(
                f"fold_norms: {item.name} still blends {float(norm.progress):.3f} of its start norm, so folding would "
                "change the model that was trained; train until norm_progress is 0, or set it to 0 on purpose with "
                "set_scheduled(0.0)"
            )


def _can_fold(site: NormSite) -> bool:
    if site.before is None and not site.after:
        return False
    if any(isinstance(layer, nn.Conv2d) and (layer.groups > 1 or layer.padding != (0, 0)) for layer in site.after):
        return False  # what the convolution pads with zeros would have to be padded with -shift / scale
    if not site.paddings:
        return True
    scale, shift = _affine(site.norm)
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


def _report(done: FoldNorms, found: list[_Found], foldable: list[_Found]) -> EditReport:
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
