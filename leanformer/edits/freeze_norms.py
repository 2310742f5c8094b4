"""Norms that stay as they are while a model is trained on: a fixed scale and shift in place of batch statistics, which
few images in a batch would spoil."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from leanformer.edits.edit import Edit, EditReport, edit
from leanformer.edits.norm_sites import FoundNorm, find_norms, frozen, is_affine, is_folded, refuse_unfinished, why_none
from leanformer.errors import EditError


@edit("freeze_norms")
class FreezeNorms(Edit):
    """Turn every norm that is affine in eval mode (batch norm, RepBN, finished PRepBN) into its scale and shift, which
    train mode leaves alone: for fine-tuning with small batches, as in dense tasks.

    Eval mode is as before. LayerNorms stay. `FoldNorms` folds what was frozen.
    """

    exact: ClassVar[bool] = True

    def apply(self, model: nn.Module) -> EditReport:
        """Freeze in place."""
        found = find_norms(model)
        affine = [item for item in found if is_affine(item.norm)]
        if not affine:
            raise EditError(f"freeze_norms: nothing to freeze, {why_none(found, 'freeze')}")
        refuse_unfinished("freeze_norms", affine, "freezing")
        _freeze(affine)
        lines = [f"froze {len(affine)} norms: each is a fixed scale and shift, in train mode too"]
        left = {type(item.norm).__name__ for item in found if not is_folded(item.norm)}
        if left:
            lines.append(f"the others stay ({', '.join(sorted(left))}): they depend on each input")
        return EditReport(edit=self, lines=tuple(lines), details={"frozen": [item.name for item in affine]})

    def replay(self, model: nn.Module) -> None:
        """The same, whatever a fresh model's norms blend."""
        _freeze([item for item in find_norms(model) if is_affine(item.norm)])


def _freeze(found: list[FoundNorm]) -> None:
    for item in found:
        item.replace(frozen(item.norm))
