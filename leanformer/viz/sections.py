"""The parts that the pages share: curves of training, a sheet of predictions, classes, calibration, facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leanformer.tasks import Calibration
from leanformer.viz import html
from leanformer.viz.charts import confusion_chart, confusion_width, curve_of, line_chart, reliability_chart
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
            ("epoch", "mAP", "mAP"),
            ("epoch", "macro_f1", "macro F1"),
            ("epoch", "ema_mAP", "mAP, averaged"),
        ),
        unit="%",
        scale=100.0,
    ),
    Panel(title="Learning rate", curves=(("step", "lr", "learning rate"),)),
    Panel(title="Share of the starting norm", curves=(("step", "norm_progress", "share"),)),
)
MORE = {
    "attention_share": "Share of the attention that fades out",
    "drop_path": "Stochastic depth, as a share of its rates",
    "gradient_norm": "Norm of the gradient, before clipping",
    "images_per_second": "Training images per second",
    "data_wait": "Share of the time that training waits for images",
}
"""Titles of what a step also reports; anything else is something scheduled, and its title is its name."""
NO_CURVE = frozenset({"event", "step", "epoch"})
LISTED_CLASSES = 40
"""Of more classes, the least accurate are listed."""
LISTED_CONFUSIONS = 20


def curves(rows: Sequence[Mapping[str, Any]], note: str = "", extra: bool = False) -> str:
    """Charts of what changed during training; with `extra`, of everything that the rows hold."""
    shown = {key for panel in PANELS for _, key, _ in panel.curves}
    steps = [row for row in rows if row.get("event") == "step"]
    others = list(dict.fromkeys(key for row in steps for key in row if key not in shown | NO_CURVE)) if extra else []
    panels = [*PANELS, *(Panel(title=MORE.get(key, key), curves=(("step", key, key),)) for key in others)]
    charts = [chart for panel in panels if (chart := _chart(panel, rows))]
    if not charts:
        return ""
    return html.section("Training", html.paragraph(note, css="soft") if note else "", html.charts(charts))


def _chart(panel: Panel, rows: Sequence[Mapping[str, Any]]) -> str:
    found = [curve_of(rows, *names, scale=panel.scale) for names in panel.curves]
    drawn = [curve for curve in found if curve is not None]
    if not drawn:
        return ""
    ends = "; ".join(f"{c.label} from {c.values[0]:.3g} to {c.values[-1]:.3g}" for c in drawn)
    png = line_chart(drawn, title=panel.title, unit=panel.unit)
    return html.chart(png, alt=f"{panel.title} over training: {ends}.")


def sheet(title: str, note: str, predictions: Sequence[Prediction]) -> str:
    """Images with what the model says of them."""
    if not predictions:
        return ""
    figures = [_prediction(prediction) for prediction in predictions]
    return html.section(title, html.paragraph(note, css="soft"), html.sheet(figures))


def _prediction(prediction: Prediction) -> str:
    css, verdict, truth = ("right", "✓ right", "") if prediction.right else ("wrong", "✗ wrong", prediction.true)
    says = html.text(f"says {prediction.predicted}, {prediction.probability:.0%}")
    caption = f"<b>{verdict}</b>{says}{f'<br>is {html.text(truth)}' if truth else ''}"
    alt = f"{prediction.true}, predicted {prediction.predicted}"
    return html.picture(prediction.image, alt=alt, caption=caption, css=css)


def classes(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """The confusion matrix, the accuracy of each class with the worst first, and the most frequent confusions."""
    if not confusion:
        return ""
    picture = html.chart(
        confusion_chart(confusion, names),
        alt="Confusion matrix: rows are true classes, columns predicted ones. The table below gives each accuracy.",
    )
    width = f"width: {5.5 * confusion_width(len(names)):.0f}rem"  # letters of 10 points become 12 pixels
    matrix = f'<div class="scroll"><div style="{width}">{picture}</div></div>'
    return html.section("Classes", matrix, _accuracies(confusion, names), _confusions(confusion, names))


def _accuracies(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    totals = [sum(row) for row in confusion]
    right = [confusion[i][i] / max(1, totals[i]) for i in range(len(names))]
    shown = sorted(range(len(names)), key=lambda i: (totals[i] == 0, right[i]))
    caption = "Accuracy of each class, the least accurate first"
    if len(names) > LISTED_CLASSES:
        caption, shown = f"The {LISTED_CLASSES} least accurate of {len(names)} classes", shown[:LISTED_CLASSES]
    rows = [
        [names[i], f"{100 * right[i]:.1f} %", f"{totals[i]:,}", _usual_mistake(i, confusion[i], names)] for i in shown
    ]
    return html.table(caption, ("class", "accuracy", "images", "most often taken for"), rows, texts=(0, 3))


def _usual_mistake(index: int, row: Sequence[int], names: Sequence[str]) -> str:
    count, other = max(((value, -column) for column, value in enumerate(row) if column != index), default=(0, 0))
    return f"{names[-other]} ({count})" if count else "-"


def _confusions(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """The most frequent mistakes; of few classes the matrix shows them."""
    if len(names) <= LISTED_CLASSES:
        return ""
    found = [(n, i, j) for i, row in enumerate(confusion) for j, n in enumerate(row) if n and i != j]
    found.sort(key=lambda item: (-item[0], item[1:]))
    rows = [
        [names[i], names[j], f"{n:,}", f"{100 * n / sum(confusion[i]):.1f} %"] for n, i, j in found[:LISTED_CONFUSIONS]
    ]
    headings = ("class", "taken for", "images", "share of the class")
    return html.table("The most frequent mistakes", headings, rows, texts=(0, 1)) if rows else ""


def calibration(found: Calibration | None, accuracy: float) -> str:
    """Whether probabilities can be trusted: the reliability diagram and the figures."""
    if found is None:
        return ""
    alt = (
        f"Reliability diagram: expected calibration error {100 * found.ece:.2f} %; the bins are accuracy by confidence."
    )
    rows = [
        ("expected calibration error", f"{100 * found.ece:.2f} %, over {len(found.bins)} bins of equal width"),
        ("mean confidence", f"{100 * found.confidence:.2f} %, at an accuracy of {100 * accuracy:.2f} %"),
        ("negative log-likelihood", f"{found.nll:.4f} nats"),
    ]
    if found.brier is not None:
        rows.append(("Brier score", f"{found.brier:.4f} (0 is perfect, 2 the worst)"))
    chart = html.charts([html.chart(reliability_chart(found), alt=alt)])
    return html.section("Calibration", chart, html.pairs("How far the probabilities can be trusted", rows))


def facts(title: str, caption: str, rows: Sequence[tuple[str, str]]) -> str:
    """Names and texts under a heading."""
    return html.section(title, html.pairs(caption, rows) if rows else "")
