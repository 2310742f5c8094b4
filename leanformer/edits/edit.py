"""The protocol of edits, their registry, and the two ways they run: applied by a user, or replayed on load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, dataclass_transform

from torch import nn

from leanformer.config import register_config

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EditReport:
    """What an edit did."""

    edit: Edit
    """The edit as it belongs in the model's record; it may hold more than the one that was asked for."""
    lines: tuple[str, ...]
    """Sentences for people."""
    details: dict[str, Any] = field(default_factory=dict)
    """The same for programs."""


class Edit:
    """A change of a model's structure: deterministic, without data, exact or refused."""

    kind: ClassVar[str]
    exact: ClassVar[bool] = False
    """Whether the outputs of the model in eval mode stay as they are, up to rounding."""

    def apply(self, model: nn.Module) -> EditReport:
        """Change `model` in place.

        Raises:
            EditError: if the change cannot be made exactly; the model is then untouched.
        """
        raise NotImplementedError

    def replay(self, model: nn.Module) -> None:
        """Change the structure alone, on a model whose weights are about to be loaded."""
        self.apply(model)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def edit(kind: str) -> Callable[[type[T]], type[T]]:
    """Class decorator of edits: a frozen dataclass, known to files and to the command line as `kind`."""
    return register_config(kind)


def apply(model: nn.Module, *edits: Edit) -> list[EditReport]:
    """Apply edits in order, in place, and write them into the model's record (`model.edits`).

    Raises:
        EditError: from the first edit that cannot be applied; those before it stay applied and recorded.
    """
    reports = []
    for change in edits:
        report = change.apply(model)
        if hasattr(model, "edits"):
            model.edits.append(report.edit)  # type: ignore[operator, union-attr]
        reports.append(report)
    return reports


def replay(model: nn.Module, edits: Sequence[Edit]) -> None:
    """Give a freshly built model the structure that `edits` had given to the saved one, and the same record."""
    for change in edits:
        change.replay(model)
        if hasattr(model, "edits"):
            model.edits.append(change)  # type: ignore[operator, union-attr]
