"""What became of a model that was compressed, as one HTML file: accuracy against latency, and every state measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leanformer.checkpoints.files import write_text
from leanformer.viz import html, sections
from leanformer.viz.charts import Point, scatter_chart


@dataclass(frozen=True, kw_only=True)
class State:
    """One state of a model with what was measured of it; None where it was not."""

    name: str
    parameters: int
    macs: int
    """On one image."""
    score: float | None
    """Accuracy, 0 to 1."""
    num_images: int | None
    """That the score was measured on."""
    median_ms: float
    p10_ms: float
    p90_ms: float
    speedup: tuple[float, float, float]
    """Over the original: the median, and the ends of its 95 % interval."""
    verdict: str
    """What the step that led here bought."""
    note: str = ""


def write_compress_page(
    path: str | Path, model: str, states: Sequence[State], chosen: State, method: Sequence[tuple[str, str]]
) -> Path:
    """Write the page, whole or not at all; the path is given back.

    Args:
        model: what it was made from.
        states: the original first.
        chosen: the state that was saved, one of `states`.
        method: how latency was measured, as names and texts.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_compress_page(model, states, chosen, method))
    return path


def render_compress_page(model: str, states: Sequence[State], chosen: State, method: Sequence[tuple[str, str]]) -> str:
    """The page as HTML text."""
    front = pareto_front(states)
    parts = [
        html.section("Accuracy against latency", _note(states), _chart(states, front, chosen)),
        html.section("The states on the way here", _table(states, front, chosen)),
        sections.facts("Method", "How the figures were measured", method),
    ]
    return html.page(f"{model}, compressed", _summary(states[0], chosen), parts)


def pareto_front(states: Sequence[State]) -> list[State]:
    """The states that no other beats in both accuracy and latency, the fastest first; of those with a score alone."""
    scored = [state for state in states if state.score is not None]
    front: list[State] = []
    for state in sorted(scored, key=lambda s: (s.median_ms, -(s.score or 0.0))):
        if not front or (state.score or 0.0) > (front[-1].score or 0.0):
            front.append(state)
    return front


def _summary(original: State, chosen: State) -> str:
    speedup, low, high = chosen.speedup
    text = (
        f"{chosen.name}: {chosen.median_ms:#.3g} ms for one batch, {speedup:.2f} times as fast as the original "
        f"({low:.2f} to {high:.2f}), {chosen.parameters:,} parameters of {original.parameters:,}"
    )
    if chosen.score is None or original.score is None:
        return f"{text}."
    return f"{text}, accuracy {100 * chosen.score:.2f} % on {chosen.num_images:,} images."


def _note(states: Sequence[State]) -> str:
    counts = sorted({state.num_images for state in states if state.num_images is not None})
    images = " and ".join(f"{count:,}" for count in counts)
    return html.paragraph(
        f"Each point is a state; those on the line are beaten by no other. Accuracy on {images} images. Up and to the "
        "left is better.",
        css="soft",
    )


def _chart(states: Sequence[State], front: Sequence[State], chosen: State) -> str:
    scored = [state for state in states if state.score is not None]
    if not scored:
        return ""
    points = [
        Point(
            label=state.name if state in (chosen, states[0]) else "",
            x=state.median_ms,
            y=100 * (state.score or 0.0),
            on_front=state in front,
        )
        for state in scored
    ]
    png = scatter_chart(points, title="Accuracy against latency", x="ms for one batch", y="accuracy, %")
    best = ", ".join(f"{state.name} {state.median_ms:#.3g} ms {100 * (state.score or 0):.2f} %" for state in front)
    return html.chart(png, alt=f"Accuracy against latency; beaten by none: {best}.")


def _table(states: Sequence[State], front: Sequence[State], chosen: State) -> str:
    headings = (
        "state",
        "accuracy",
        "images",
        "median ms",
        "p10-p90 ms",
        "speed",
        "this step",
        "parameters",
        "MACs",
        "",
    )
    rows = [_cells(state, front, chosen) for state in states]
    return html.table("In the order in which they were measured", headings, rows, texts=(0, 6, 9))


def _cells(state: State, front: Sequence[State], chosen: State) -> list[str]:
    marks = ["chosen"] * (state is chosen) + ["on the front"] * (state in front) + [state.note] * bool(state.note)
    return [
        state.name,
        "-" if state.score is None else f"{100 * state.score:.2f} %",
        "-" if state.num_images is None else f"{state.num_images:,}",
        f"{state.median_ms:#.3g}",
        f"{state.p10_ms:#.3g}-{state.p90_ms:#.3g}",
        f"{state.speedup[0]:.2f}x",
        state.verdict,
        f"{state.parameters:,}",
        f"{state.macs / 1e6:,.1f} M",
        ", ".join(marks),
    ]
