"""Advice as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leanformer.compression.advice.figures import Advice, Change, PlaceCurves, Refusal, Setting
from leanformer.compression.advice.steps import TRAINED, pays
from leanformer.compression.figures import EXACT

NEEDS = {
    "nothing": "outputs stay",
    "images": "images choose or check",
    "training": "needs training",
}
WIDTH = 44


def advice_lines(advice: Advice) -> Iterator[str]:
    """All of it, what to do first at the end."""
    at = dict(advice.machine)
    yield f"{advice.model} on {at['device']}, {at['cpu']}, {at['threads']} thread{'' if at['threads'] == '1' else 's'}"
    yield measured_line(advice)
    for setting in advice.settings:
        yield ""
        yield from _setting_lines(setting, advice.model)
    for refusal in advice.refused:
        yield ""
        yield f"not at {refusal.name}: {refusal.reason}"
    if advice.places:
        yield ""
        yield "Attention alone: tokens from which on it is faster than softmax"
        for place in advice.places:
            yield from _place_lines(place)
    yield from _whole_lines(advice)
    for title, steps in advice.steps.items():
        yield ""
        yield f"What to do first at {title}"
        for number, step in enumerate(steps, 1):
            yield f"  {number}. {step.text}"
            if step.command:
                yield f"     {step.command}"
    if any(f" {TRAINED} " in step.command for steps in advice.steps.values() for step in steps):
        yield f"  ({TRAINED} is a trained run of {advice.model}, and DATA its images)"


def measured_line(advice: Advice) -> str:
    """When it was measured, and how to measure it again."""
    dates = sorted(each.date for each in advice.measured)
    kept = sum(each.path is not None for each in advice.measured)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    if not kept:
        return f"measured {when}"
    return f"measured {when}; {kept} of {len(dates)} parts were known; --fresh measures them again"


def busy_line(setting: Setting) -> str:
    """A warning where something else was running, else nothing."""
    if not setting.busy:
        return ""
    spread = setting.p90_ms / setting.p10_ms
    return f"the machine was busy: the same model's times spread {spread:.1f}-fold; measure again with --fresh"


def change_cells(change: Change) -> tuple[str, str, str, str]:
    """Name, its time and that of the model as it is, speed over that, and what is to be known."""
    speed = "-" if change.gain is None else str(change.gain)
    notes = [change.verdict, NEEDS[change.needs]]
    if change.difference is not None:
        kept = "" if change.difference <= EXACT else "NOT KEPT: "
        notes[1] = f"{kept}outputs differ by {change.difference:.0e} of their scale"
    return change.name, f"{change.median_ms:#.3g} of {change.base_ms:#.3g} ms", speed, ", ".join(notes)


def _setting_lines(setting: Setting, model: str) -> Iterator[str]:
    weights = ", random weights" if setting.random_weights else ""
    yield (
        f"{setting.title}: {setting.median_ms:#.3g} ms ({setting.p10_ms:#.3g}-{setting.p90_ms:#.3g}), "
        f"{setting.rounds} rounds{weights}"
    )
    if busy := busy_line(setting):
        yield f"  {busy}"
    yield f"  {'where its time goes':<29}{'ms':>6}  {'share':>10}  {'of MACs':>8}"
    for part in setting.parts:
        macs = "" if part.macs_share is None else f"{100 * part.macs_share:.1f} %"
        yield f"    {part.name:<24}{part.ms:#9.3g}  {100 * part.share:8.1f} %  {macs:>8}".rstrip()
    yield f"    (timing the parts takes {setting.measuring:.2f} times as long as a plain pass)"
    yield from _table("  what edits buy", [change for change in setting.changes if not change.attention])
    yield from _table("  what other attention buys", [change for change in setting.changes if change.attention])
    yield from _refusals(setting.refused, "  ")
    if not any(map(pays, setting.changes)):
        yield f"  nothing here makes {model} faster for sure"


def _table(title: str, changes: Sequence[Change]) -> Iterator[str]:
    if not changes:
        return
    yield title
    for name, ms, speed, notes in map(change_cells, changes):
        yield f"    {name:<{WIDTH}} {ms:>22}  {speed:<18} {notes}"


def _refusals(refused: Sequence[Refusal], indent: str) -> Iterator[str]:
    for refusal in refused:
        yield f"{indent}not possible: {refusal.name}: {refusal.reason.removeprefix(f'{refusal.name}: ')}"


def _place_lines(place: PlaceCurves) -> Iterator[str]:
    batch = "" if place.batch_size == 1 else f", batch {place.batch_size}"
    yield f"  {place.name}{batch}"
    for crossing in place.crossings:
        yield f"    {crossing.name:<20} against {crossing.baseline:<24} {crossing.text('tokens')}"
    yield from _refusals(place.refused, "    ")


def _whole_lines(advice: Advice) -> Iterator[str]:
    if not advice.crossings:
        return
    yield ""
    yield "Whole models: pixels of a side from which on they are faster, among the sizes asked for"
    for crossing in advice.crossings:
        yield f"  {crossing.name:<{WIDTH}} against {crossing.baseline}: {crossing.text('px')}"
    for check in advice.checks:
        yield f"  to check: {check}"
