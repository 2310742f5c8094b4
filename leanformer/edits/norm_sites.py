"""Where edits find norms: every norm that a model's layers declare, with its name; and what the affine ones do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from leanformer.errors import EditError
from leanformer.layers.norm import FrozenAffine, ProgressiveNorm, RepBatchNorm, batch_norm_affine
from leanformer.layers.site import NormSite


@dataclass(frozen=True)
class FoundNorm:
    """One norm and its place in a model."""

    name: str
    """Dotted name in the model, such as `backbone.stages.0.blocks.3.attn.norm`."""
    site: NormSite

    @property
    def norm(self) -> nn.Module:
        """The norm itself."""
        return self.site.norm

    def replace(self, norm: nn.Module) -> None:
        """Put another module in its place."""
        self.site.owner.add_module(self.site.attribute, norm)


def find_norms(model: nn.Module) -> list[FoundNorm]:
    """The norms that `norm_sites()` of the model's modules declare."""
    found = []
    for prefix, module in model.named_modules():
        if not hasattr(module, "norm_sites"):
            continue
        names = {id(child): name for name, child in module.named_modules()}
        for site in module.norm_sites():  # type: ignore[operator]
            inner = ".".join(part for part in (prefix, names[id(site.owner)], site.attribute) if part)
            found.append(FoundNorm(inner, site))
    return found


def is_affine(norm: nn.Module) -> bool:
    """Whether a norm of a model is, in eval mode, one scale and one shift for each channel."""
    return isinstance(norm, (RepBatchNorm, ProgressiveNorm, nn.BatchNorm1d, nn.BatchNorm2d))


def is_folded(norm: nn.Module) -> bool:
    """Whether a norm has been folded into its neighbours, or is a fixed scale and shift already."""
    return isinstance(norm, (nn.Identity, FrozenAffine))


def affine_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """(scale, shift) of an affine norm in eval mode, each (C,)."""
    if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return batch_norm_affine(norm)
    if isinstance(norm, FrozenAffine):
        return norm.scale.flatten(), norm.shift.flatten()
    return norm.affine()  # type: ignore[operator]


def frozen(norm: nn.Module) -> FrozenAffine:
    """What an affine norm does in eval mode, as a fixed scale and shift."""
    if isinstance(norm, FrozenAffine):
        return norm
    shape = (-1, 1, 1) if isinstance(norm, nn.BatchNorm2d) else (-1,)
    scale, shift = affine_of(norm)
    return FrozenAffine(scale.view(shape), shift.view(shape))


def refuse_unfinished(kind: str, found: Iterable[FoundNorm], doing: str) -> None:
    """Refuse progressive norms that are not RepBN yet.

    Raises:
        EditError: in the name of the edit `kind`, saying what `doing` it would do.
    """
    for item in found:
        norm = item.norm
        if isinstance(norm, ProgressiveNorm) and float(norm.progress) > 0.0:
            raise EditError(
                f"{kind}: {item.name} still blends {float(norm.progress):.3f} of its start norm, so {doing} would "
                "change the model that was trained; train until norm_progress is 0, or set it to 0 on purpose with "
                "set_scheduled(0.0)"
            )


def why_none(found: Iterable[FoundNorm], doing: str) -> str:
    """Why a model has no norm for an edit that is `doing` (folding, freezing) affine ones."""
    kinds = sorted({type(item.norm).__name__ for item in found if not is_folded(item.norm)})
    if not kinds:
        return "this model has no norm, or its norms are folded already"
    return (
        f"this model has {', '.join(kinds)}, which depends on each input; only RepBN, PRepBN and batch norms "
        f"{doing}: train a model with them (norms=Norms(block=PRepBN()), or the edit swap_norm)"
    )
