"""What to do first with a model: what pays and costs nothing, then what images have to choose, then what has to be
trained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from leanformer.compression.advice.figures import Change, Needs, Setting, Step
from leanformer.compression.figures import EXACT, Gain
from leanformer.compression.steps import parse_step
from leanformer.config import to_dict
from leanformer.edits import Edit, SwapNorm
from leanformer.training import Linear, RecalibrateBatchNorm, Scheduled

OUT = "runs/lean"
TRAINED = "RUN"
"""What stands in commands for a trained run of a model that was given by its name."""
BLENDING = Scheduled(what="norm_progress", schedule=Linear(start=1.0, end=0.0, until=0.5))
"""How norms that are swapped give way to the new ones, as in the default recipe."""


def first_steps(setting: Setting, model: str, *, stored: bool, threads: int | None = None) -> tuple[Step, ...]:
    """What pays at this size, in the order in which to try it; one step that says so if nothing does.

    Args:
        model: as it is typed.
        stored: whether that is a directory with weights, not a name; it can be trained again if it is a run.
        threads: with which was measured; None for torch's own.
    """
    paid = [change for change in setting.changes if pays(change)]
    exact = _best(paid, "nothing")
    compress = f"leanformer compress {shlex.quote(model) if stored else TRAINED}"
    measured = "" if threads is None else f" --threads {threads}"
    steps = [_exact_step(exact, compress, measured)] if exact else []
    for change in _strongest(_best(paid, "images")):
        steps.append(_chosen_step(change, exact, compress, measured))
    trained = _best(paid, "training")
    for change in (*[c for c in trained if c.attention][:1], *[c for c in trained if not c.attention][:1]):
        steps.append(_trained_step(change, model, stored))
    if steps:
        return tuple(steps)
    text = f"nothing that was measured pays at {setting.title}: keep the model as it is"
    return (Step(text=text, command=""),)


def pays(change: Change) -> bool:
    """Whether a change makes the model faster by more than noise, and keeps the outputs if it is to."""
    kept = change.difference is None or change.difference <= EXACT
    return change.gain is not None and change.gain.low > 1.0 and kept


def _best(paid: Sequence[Change], needs: Needs) -> list[Change]:
    return sorted((change for change in paid if change.needs == needs), key=_least, reverse=True)


def _least(change: Change) -> float:
    return _gain(change).low


def _gain(change: Change) -> Gain:
    assert change.gain is not None
    return change.gain


def _strongest(changes: Sequence[Change]) -> list[Change]:
    """The best of each kind of edit."""
    kinds: dict[str, Change] = {}
    for change in changes:
        kinds.setdefault(change.name.partition(":")[0], change)
    return list(kinds.values())


def _exact_step(changes: Sequence[Change], compress: str, measured: str) -> Step:
    gains = ", ".join(f"{change.name} {change.gain}" for change in changes)
    edits = " ".join(f"--edit {change.edit}" for change in changes)
    return Step(
        text=f"the outputs stay: {gains}",
        command=f"{compress} {edits} --out {OUT}{measured}",
    )


def _chosen_step(change: Change, exact: Sequence[Change], compress: str, measured: str) -> Step:
    edits = " ".join(f"--edit {each.edit}" for each in (*exact, change))
    return Step(
        text=f"{change.name} {change.gain}: outputs change; images choose what goes and show what it costs"
        if not change.name.startswith("merge")
        else f"{change.name} {change.gain}: outputs change; images show what it costs",
        command=f"{compress} --data DATA {edits} --out {OUT}{measured}",
    )


def _trained_step(change: Change, model: str, stored: bool) -> Step:
    text = f"{change.name} {change.gain}: another model, which has to be trained"
    if change.edit is None:
        return Step(text=text, command=f"leanformer train {change.name} --data DATA --out {OUT}")
    if stored and not (Path(model) / "config.json").is_file():
        return Step(text=f"{text}; {model} holds no run to repeat, so train it from Python", command="")
    edits = [edit for edit in _edits(change.edit) if edit.kind != "fold_norms"]  # folded once it is trained
    given: dict[str, Sequence[object]] = {"model.edits": edits}
    if any(isinstance(edit, SwapNorm) for edit in edits):
        given |= {"schedules": [BLENDING], "finish": [RecalibrateBatchNorm(batches=100)]}
    settings = [shlex.quote(f"{field}={json.dumps(to_dict(value))}") for field, value in given.items()]
    name = shlex.quote(model)
    start = f"--from {name}/config.json --weights {name}" if stored else f"{name} --data DATA"
    return Step(text=text, command=f"leanformer train {start} --out {OUT} --set {' --set '.join(settings)}")


def _edits(typed: str) -> list[Edit]:
    texts = [typed] if typed.startswith("{") else typed.split(", then ")
    found = [parse_step(text).edit for text in texts]
    return [edit for edit in found if isinstance(edit, Edit)]
