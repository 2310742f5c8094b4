"""Advice on a model as one HTML file: what to do first, where its time goes, what changes buy, and from how many tokens
on other attention is faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leanformer.checkpoints.files import write_text
from leanformer.viz import html, sections
from leanformer.viz.charts import Bar, Curve, bar_chart, scaling_chart

Row = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SettingView:
    """What is shown of one size of images."""

    title: str
    note: str
    parts: tuple[tuple[str, float, float, float | None], ...]
    """Name, milliseconds, share of the time, share of the multiply-accumulates."""
    changes: tuple[Row, ...]
    """Name, time, speed, what is to be known."""
    refused: tuple[Row, ...]
    """Name and reason."""
    steps: tuple[tuple[str, str], ...]
    """What to do first, and the command for it."""


@dataclass(frozen=True, kw_only=True)
class PlaceView:
    """What is shown of attention in one kind of place."""

    title: str
    curves: tuple[Curve, ...]
    crossings: tuple[Row, ...]
    """Attention, what it is compared with, the number of tokens."""


@dataclass(frozen=True, kw_only=True)
class AdviceView:
    """All that the page shows."""

    model: str
    summary: str
    settings: tuple[SettingView, ...]
    places: tuple[PlaceView, ...]
    whole: tuple[Row, ...]
    """Attention, the model, the size of images."""
    checks: tuple[str, ...]
    refused: tuple[str, ...]
    """Sizes that the model does not take."""
    method: tuple[tuple[str, str], ...]


def write_advise_page(path: str | Path, view: AdviceView) -> Path:
    """Write the page, whole or not at all; the path is given back."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_advise_page(view))
    return path


def render_advise_page(view: AdviceView) -> str:
    """The page as HTML text."""
    parts = [
        html.section("What to do first", *map(_steps, view.settings)),
        *map(_setting, view.settings),
        _whole(view),
        _places(view.places),
        sections.facts("Method", "How the figures were measured", view.method),
    ]
    return html.page(f"Advice on {view.model}", view.summary, parts)


def _steps(setting: SettingView) -> str:
    found = [html.paragraph(setting.title)]
    for number, (text, command) in enumerate(setting.steps, 1):
        found.append(html.paragraph(f"{number}. {text}"))
        found.append(html.commands([command] if command else []))
    return "\n".join(found)


def _setting(setting: SettingView) -> str:
    headings = ("part", "ms", "of the time", "of the MACs")
    rows = [
        (name, f"{ms:#.3g}", f"{100 * share:.1f} %", "-" if macs is None else f"{100 * macs:.1f} %")
        for name, ms, share, macs in setting.parts
    ]
    changed = ("change", "time", "speed", "")
    refused = html.table("Not possible", ("change", "why"), setting.refused, texts=(0, 1)) if setting.refused else ""
    return html.section(
        setting.title,
        html.paragraph(setting.note, css="soft"),
        _parts_chart(setting),
        html.table("Where the time goes", headings, rows),
        html.table("What changes buy, over the model as it is", changed, setting.changes, texts=(0, 3)),
        refused,
    )


def _parts_chart(setting: SettingView) -> str:
    bars = [Bar(label=name, value=100 * share) for name, _, share, _ in setting.parts]
    if not bars:
        return ""
    png = bar_chart(bars, title=f"Where the time goes, {setting.title}", number=".1f", unit="% of a pass")
    spoken = ", ".join(f"{bar.label} {bar.value:.1f} %" for bar in bars)
    return html.charts([html.chart(png, alt=f"Shares of the time: {spoken}.")])


def _whole(view: AdviceView) -> str:
    refused = [html.paragraph(text, css="soft") for text in view.refused]
    if not view.whole:
        return html.section("Sizes that are not possible", *refused)
    headings = ("attention", "instead of", "faster from")
    table = html.table("Sides of the images, among the sizes asked for", headings, view.whole, texts=(0, 1, 2))
    return html.section("Whole models", *refused, table, html.commands(view.checks))


def _places(places: Sequence[PlaceView]) -> str:
    charts, tables = [], []
    for place in places:
        drawn = [curve for curve in place.curves if curve.steps]
        if drawn:
            png = scaling_chart(drawn, title=place.title, x="tokens", y="ms for one batch")
            names = ", ".join(curve.label for curve in drawn)
            charts.append(html.chart(png, alt=f"Time against tokens in {place.title}: {names}."))
        headings = ("attention", "against", "faster from")
        tables.append(html.table(place.title, headings, place.crossings, texts=(0, 1, 2)))
    return html.section("Attention alone, against the number of tokens", html.charts(charts), *tables)
