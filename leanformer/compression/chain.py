"""Edits one after another, each measured, and kept only if it does not make the model slower."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from leanformer import edits
from leanformer.compression.choosing import Chooser
from leanformer.compression.figures import EXACT, Figures, Meter
from leanformer.compression.steps import Amount, Step
from leanformer.config import to_dict
from leanformer.edits import Edit
from leanformer.errors import EditError
from leanformer.models import ImageClassifier

Tell = Callable[[str], None]
"""Takes lines for people."""


@dataclass(kw_only=True)
class Chain:
    """A model on its way, and what was measured of each state."""

    model: ImageClassifier
    """The original itself, where no step was kept."""
    rows: list[Figures]
    """The original, each state that was kept, and those that were refused, with a note."""
    plans: list[dict[str, Any]] = field(default_factory=list)
    """Records of what data chose."""

    @property
    def kept(self) -> list[Figures]:
        """The original and the states that were kept."""
        return [row for row in self.rows if not row.note.startswith("refused")]


def run_chain(
    original: ImageClassifier, steps: Sequence[Step], meter: Meter, chooser: Chooser, *, force: bool, tell: Tell
) -> Chain:
    """Apply `steps` one after another, each to a copy of the state before; the original stays as it is.

    Args:
        force: keep steps that make the model slower.
        tell: told one line after each step.

    Raises:
        EditError: from a step that cannot be applied, or that says it is exact and is not.
        DataError: from a step that has to be chosen with images that are not there.
    """
    _rehearse(original, steps, chooser)
    first = meter.measure("original", original)
    chain = Chain(model=original, rows=[first])
    tell(first.line())
    for step in steps:
        edit = chosen_edit(step, chain, chooser, tell)
        candidate = copy.deepcopy(chain.model)
        (report,) = edits.apply(candidate, edit)
        for line in report.lines:
            tell(f"  {line}")
        check_exact(edit, candidate, chain.model, meter)
        figures = meter.measure(step.text, candidate, edits_of(candidate), previous=chain.model)
        if figures.latency.over_previous.verdict == "slower" and not force:
            figures = dataclasses.replace(figures, note="refused: it makes the model slower; --force keeps it")
        else:
            chain.model = candidate
        chain.rows.append(figures)
        tell(figures.line(first) + (f"; {figures.note}" if figures.note else ""))
    return chain


def _rehearse(original: ImageClassifier, steps: Sequence[Step], chooser: Chooser) -> None:
    """Let the steps up to the first that data choose refuse before anything is measured, and all that lack data."""
    model = copy.deepcopy(original)
    for step in steps:
        if isinstance(step.edit, Amount):
            chooser.check(step.edit)
    for step in steps:
        if isinstance(step.edit, Amount):
            dataclasses.replace(chooser, way="first").choose(model, step.edit)  # is there as much to choose from?
            return
        edits.apply(model, step.edit)


def chosen_edit(step: Step, chain: Chain, chooser: Chooser, tell: Tell) -> Edit:
    """The edit of a step, chosen by a plan if need be."""
    if not isinstance(step.edit, Amount):
        return step.edit
    plan = chooser.choose(chain.model, step.edit)
    chain.plans.append(plan.to_dict())
    for line in plan.lines():
        tell(f"  {line}")
    return plan.edit


def check_exact(edit: Edit, after: ImageClassifier, before: ImageClassifier, meter: Meter) -> None:
    """Refuse a state whose outputs differ where the edit keeps them.

    Raises:
        EditError: with the difference.
    """
    if not edit.exact:
        return
    found = meter.difference(after, before)
    if not found <= EXACT:
        raise EditError(
            f"{edit.kind} should keep the outputs, but changes them by {found:.1e} of their scale "
            f"(allowed {EXACT:.0e}); nothing was saved"
        )


def edits_of(model: ImageClassifier) -> list[Any]:
    """All edits of a model in their JSON form."""
    return [to_dict(edit) for edit in model.edits]
