"""A report on a trained model as one HTML file: no address leaves it, so it can be mailed, archived and printed."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanformer.checkpoints.files import write_text
from leanformer.viz import html
from leanformer.viz.charts import Bar, bar_chart, confusion_chart, confusion_width, curve_of, line_chart
from leanformer.viz.predictions import Prediction


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A chart of training: which figures of `metrics.jsonl` it shows."""

    title: str
    curves: tuple[tuple[str, str, str], ...]
    """Event, key and label of each."""
    unit: str = ""
    scale: float = 1.0


PANELS = (
    Panel(
        title="Loss",
        curves=(
            ("step", "loss", "training"),
            ("epoch", "loss", "validation"),
            ("epoch", "ema_loss", "validation, averaged"),
        ),
    ),
    Panel(
        title="Accuracy on validation images",
        curves=(
            ("epoch", "top1", "top-1"),
            ("epoch", "top5", "top-5"),
            ("epoch", "ema_top1", "top-1, averaged"),
        ),
        unit="%",
        scale=100.0,
    ),
    Panel(title="Learning rate", curves=(("step", "lr", "learning rate"),)),
    Panel(title="Share of the starting norm", curves=(("step", "norm_progress", "share"),)),
)
LISTED_CLASSES = 40
"""Up to this many classes are listed with their accuracy; of more, the least accurate."""


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
    style = importlib.resources.files("leanformer.viz").joinpath("report.css").read_text(encoding="utf-8")
    sections = [
        _curves(report),
        _steps(report.steps),
        _sheet(report.predictions),
        _confusion(report),
        _method(report.method),
        html.section("How to reproduce", html.commands(report.reproduce)),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.text(report.title)}</title>",
            f"<style>\n{style}</style></head>",
            "<body>",
            f"<header><h1>{html.text(report.title)}</h1>\n{html.paragraph(report.summary, css='summary')}</header>",
            "<main>",
            *filter(None, sections),
            "</main>",
            "<footer>Made by leanformer.</footer>",
            "</body>",
            "</html>\n",
        ]
    )


def _curves(report: Report) -> str:
    charts = []
    for panel in PANELS:
        found = [curve_of(report.metrics, *names, scale=panel.scale) for names in panel.curves]
        curves = [curve for curve in found if curve is not None]
        if curves:
            ends = "; ".join(f"{c.label} from {c.values[0]:.3g} to {c.values[-1]:.3g}" for c in curves)
            png = line_chart(curves, title=panel.title, unit=panel.unit)
            charts.append(html.chart(png, alt=f"{panel.title} over training: {ends}."))
    if not charts:
        return ""
    note = html.paragraph(report.training_note, css="soft") if report.training_note else ""
    return html.section("Training", note, f'<div class="charts">{"".join(charts)}</div>')


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


def _sheet(predictions: Sequence[Prediction]) -> str:
    if not predictions:
        return ""
    note = "Right predictions, taken in turn from the classes, then the mistakes that the model was surest of."
    items = "\n".join(f"<li>{_prediction(prediction)}</li>" for prediction in predictions)
    return html.section("Predictions", html.paragraph(note, css="soft"), f'<ul class="sheet">\n{items}\n</ul>')


def _prediction(prediction: Prediction) -> str:
    frame, verdict, truth = ("right", "✓ right", "") if prediction.right else ("wrong", "✗ wrong", prediction.true)
    pixels = "pixels" if max(prediction.image.shape[:2]) < 100 else "photo"
    says = f"says {prediction.predicted}, {prediction.probability:.0%}"
    alt = html.text(f"{prediction.true}, predicted {prediction.predicted}")
    picture = html.data_address(html.png_of(prediction.image))
    return (
        f'<figure class="{frame}"><img class="{pixels}" src="{picture}" alt="{alt}">'
        f"<figcaption><b>{verdict}</b>{html.text(says)}"
        f"{f'<br>is {html.text(truth)}' if truth else ''}</figcaption></figure>"
    )


def _confusion(report: Report) -> str:
    if not report.confusion:
        return ""
    names, matrix = report.classes, report.confusion
    right = [matrix[i][i] / max(1, sum(matrix[i])) for i in range(len(names))]
    picture = html.chart(
        confusion_chart(matrix, names),
        alt="Confusion matrix: rows are true classes, columns predicted ones. The table below gives each accuracy.",
    )
    caption, shown = "Accuracy of each class", range(len(names))
    if len(names) > LISTED_CLASSES:
        caption = f"The {LISTED_CLASSES} least accurate of {len(names)} classes"
        shown = sorted(shown, key=lambda i: right[i])[:LISTED_CLASSES]
    rows = [
        [names[i], f"{100 * right[i]:.1f} %", f"{sum(matrix[i]):,}", _usual_mistake(i, matrix[i], names)] for i in shown
    ]
    table = html.table(caption, ("class", "accuracy", "images", "most often taken for"), rows, texts=(0, 3))
    width = f"width: {5.5 * confusion_width(len(names)):.0f}rem"  # letters of 10 points become 12 pixels
    return html.section("Classes", f'<div class="scroll"><div style="{width}">{picture}</div></div>', table)


def _usual_mistake(index: int, row: Sequence[int], names: Sequence[str]) -> str:
    count, other = max(((value, -column) for column, value in enumerate(row) if column != index), default=(0, 0))
    return f"{names[-other]} ({count})" if count else "-"


def _method(rows: Sequence[tuple[str, str]]) -> str:
    return html.section("Method", html.pairs("How the figures were measured", rows) if rows else "")
