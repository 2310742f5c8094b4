"""The page of a piece of advice."""

from __future__ import annotations

from pathlib import Path

from leanformer.compression.advice.figures import Advice, PlaceCurves, Setting, Step
from leanformer.compression.advice.text import busy_line, change_cells, measured_line
from leanformer.viz.advise_page import AdviceView, PlaceView, SettingView, write_advise_page
from leanformer.viz.charts import Curve


def write_page(path: Path, advice: Advice) -> Path:
    """Write the advice as HTML; the path is given back."""
    view = AdviceView(
        model=advice.model,
        summary=_summary(advice),
        settings=tuple(_setting(setting, advice.steps[setting.title]) for setting in advice.settings),
        places=tuple(map(_place, advice.places)),
        whole=tuple((c.name, c.baseline, c.text("px")) for c in advice.crossings),
        checks=advice.checks,
        refused=tuple(f"Not at {refusal.name}: {refusal.reason}" for refusal in advice.refused),
        method=advice.machine,
    )
    return write_advise_page(path, view)


def _summary(advice: Advice) -> str:
    times = ", ".join(f"{setting.title}: {setting.median_ms:#.3g} ms" for setting in advice.settings)
    return f"{dict(advice.machine)['cpu']}. {times}. {measured_line(advice).capitalize()}."


def _setting(setting: Setting, steps: tuple[Step, ...]) -> SettingView:
    weights = "Random weights. " if setting.random_weights else ""
    note = (
        f"Median {setting.median_ms:#.3g} ms, 10 % to 90 %: {setting.p10_ms:#.3g} to {setting.p90_ms:#.3g} ms, "
        f"{setting.rounds} rounds. {weights}Timing the parts takes {setting.measuring:.2f} times as long as a plain "
        f"pass. {busy_line(setting).capitalize()}"
    )
    return SettingView(
        title=setting.title,
        note=note,
        parts=tuple((part.name, part.ms, part.share, part.macs_share) for part in setting.parts),
        changes=tuple(map(change_cells, setting.changes)),
        refused=tuple((refusal.name, refusal.reason) for refusal in setting.refused),
        steps=tuple((step.text, step.command) for step in steps),
    )


def _place(place: PlaceCurves) -> PlaceView:
    batch = "" if place.batch_size == 1 else f", batch {place.batch_size}"
    return PlaceView(
        title=f"{place.name}{batch}",
        curves=tuple(
            Curve(label=curve.name, steps=tuple(map(float, curve.tokens)), values=curve.median_ms)
            for curve in place.curves
        ),
        crossings=tuple((c.name, c.baseline, c.text("tokens")) for c in place.crossings),
    )
