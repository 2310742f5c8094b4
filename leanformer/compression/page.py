"""The page of a compression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leanformer.compression.figures import Figures
from leanformer.viz.compress_page import State, write_compress_page


def write_page(
    path: Path, model: str, rows: Sequence[Figures], chosen: Figures, method: Sequence[tuple[str, str]]
) -> Path:
    """Write accuracy against latency of all `rows`, the original first, and mark the one that was saved."""
    states = [_state(row, row.edits == rows[0].edits) for row in rows]
    return write_compress_page(path, model, states, states[rows.index(chosen)], method)


def _state(row: Figures, original: bool) -> State:
    at, gain = row.latency, row.latency.over_original
    return State(
        name=row.name,
        parameters=row.parameters,
        macs=row.macs,
        score=row.score,
        num_images=row.num_images,
        median_ms=at.median_ms,
        p10_ms=at.p10_ms,
        p90_ms=at.p90_ms,
        speedup=(gain.speedup, gain.low, gain.high),
        verdict="-" if original else at.over_previous.verdict,
        note="; ".join(filter(None, (row.note, at.busy))),
    )
