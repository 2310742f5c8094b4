"""A report on a trained model as one HTML file: no address leaves it, so it can be mailed, archived and printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanformer.checkpoints.files import write_text
from leanformer.viz import html, sections
from leanformer.viz.charts import Bar, bar_chart
from leanformer.viz.predictions import Prediction

CHOSEN = "Right predictions, taken in turn from the classes, then the mistakes that the model was surest of."


@dataclass(frozen=True, kw_only=True)
class Step:
    """One state of the model on its way (trained, folded, exported) with what was measured; None where it was not."""

    name: str
    accuracy: float | None = None
    """Top-1, 0 to 1."""
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    speedup: float | None = None
    """Over the first step; None where it may not be claimed."""
    parameters: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    max_diff: float | None = None
    """Largest difference of any output from the first step's."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a report shows, as plain data; a part without data is left out."""

    title: str
    summary: str
    """The result in one or two sentences."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """Rows of `metrics.jsonl`."""
    training_note: str = ""
    """What a reader needs to know to read the curves."""
    steps: Sequence[Step] = ()
    predictions: Sequence[Prediction] = ()
    classes: Sequence[str] = ()
    confusion: Sequence[Sequence[int]] = ()
    """Counts, a row for each true class, a column for each predicted one."""
    method: Sequence[tuple[str, str]] = ()
    reproduce: Sequence[str] = ()
    """Commands that give this result again."""


def write_report(path: str | Path, report: Report) -> Path:
    """Write the report as one file, whole or not at all; the path is given back."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_report(report))
    return path


def render_report(report: Report) -> str:
    """The report as HTML text."""
    parts = [
        sections.curves(report.metrics, report.training_note),
        _steps(report.steps),
        sections.sheet("Predictions", CHOSEN, report.predictions),
        sections.classes(report.confusion, report.classes),
        sections.facts("Method", "How the figures were measured", report.method),
        html.section("How to reproduce", html.commands(report.reproduce)),
    ]
    return html.page(report.title, report.summary, parts)


def _steps(steps: Sequence[Step]) -> str:
    if not steps:
        return ""
    headings = ("step", "top-1", "median ms", "p10-p90 ms", "speed-up", "parameters", "MACs", "size", "max difference")
    intro = (
        "Latency is that of one batch. Speed-up is over the first row, where outputs agree; max difference is the "
        "largest change of any output from the first row."
    )
    notes = [html.paragraph(f"{step.name}: {step.note}", css="soft") for step in steps if step.note]
    table = html.table("Each step on the same images", headings, [_step_cells(step) for step in steps])
    return html.section("Steps", html.paragraph(intro, css="soft"), table, *notes, _step_charts(steps))


def _step_charts(steps: Sequence[Step]) -> str:
    charts = []
    accuracy = [Bar(label=s.name, value=100 * s.accuracy) for s in steps if s.accuracy is not None]
    if accuracy:
        png = bar_chart(accuracy, title="Top-1 accuracy", number=".2f", unit="%")
        charts.append(html.chart(png, alt=_spoken("Top-1 accuracy in percent", accuracy, ".2f")))
    latency = [
        Bar(label=s.name, value=s.median_ms, low=s.p10_ms, high=s.p90_ms) for s in steps if s.median_ms is not None
    ]
    if latency:
        png = bar_chart(latency, title="Latency: median, 10 % to 90 %", number="#.3g", unit="ms for one batch")
        charts.append(html.chart(png, alt=_spoken("Median latency in milliseconds", latency, "#.3g")))
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _spoken(what: str, bars: Sequence[Bar], number: str) -> str:
    return f"{what}: {', '.join(f'{bar.label} {bar.value:{number}}' for bar in bars)}."


def _step_cells(step: Step) -> list[str]:
    spread = None if step.p10_ms is None or step.p90_ms is None else f"{step.p10_ms:#.3g}-{step.p90_ms:#.3g}"
    return [
        step.name,
        _shown(step.accuracy, lambda value: f"{100 * value:.2f} %"),
        _shown(step.median_ms, lambda value: f"{value:#.3g}"),
        spread or "-",
        _shown(step.speedup, lambda value: f"{value:.2f}x"),
        _shown(step.parameters, lambda value: f"{value:,}"),
        _shown(step.macs, lambda value: f"{value / 1e6:,.1f} M"),
        _shown(step.size_bytes, lambda value: f"{value / 1e6:.2f} MB"),
        _shown(step.max_diff, lambda value: f"{value:.1e}"),
    ]


def _shown(value: Any, write: Any) -> str:
    return "-" if value is None else write(value)
