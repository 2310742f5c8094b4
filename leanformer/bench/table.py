"""Results as a table for a terminal, for Markdown and for programs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from leanformer.bench.compare import Agreement
from leanformer.bench.cost import Cost
from leanformer.bench.latency import Timing
from leanformer.bench.method import Method

HEADINGS = ("model", "median ms", "p10-p90 ms", "images/s", "speed-up (95 %)", "params", "MACs", "size", "max diff")
P99 = "p99 ms"
"""A column where there are rounds enough for it."""
ENOUGH = 100


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured model; what is unknown is left out of the table as a dash."""

    timing: Timing
    cost: Cost | None = None
    size_bytes: int | None = None
    """On disk."""
    agreement: Agreement | None = None


def format_text(rows: Sequence[Row]) -> str:
    """Aligned columns, names to the left and numbers to the right, then the notes."""
    cells = _lines(rows)
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, *_notes(rows)])


def format_markdown(rows: Sequence[Row], method: Method | None = None) -> str:
    """A Markdown table, the notes, and the method record below it."""
    headings, *cells = _lines(rows)
    lines = [_markdown_line(headings), _markdown_line(["---"] + ["---:"] * (len(headings) - 1))]
    lines += map(_markdown_line, cells)
    lines += [f"\n{note}" for note in _notes(rows)]
    if method is not None:
        lines += ["", "Method:", "", *(f"- {name}: {value}" for name, value in method.rows())]
    return "\n".join(lines) + "\n"


def format_csv(rows: Sequence[Row]) -> str:
    """One line for each model under a line of names, unrounded; what is unknown is empty."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    timing = [field.name for field in dataclasses.fields(Timing) if field.name not in ("note", "speedup_interval")]
    lines.writerow([*timing, "speedup_low", "speedup_high", "parameters", "macs", "max_diff", "note"])
    for row in rows:
        cost = ("", "") if row.cost is None else (row.cost.parameters, row.cost.macs)
        low, high = row.timing.speedup_interval or ("", "")
        difference = "" if row.agreement is None else row.agreement.max_diff
        lines.writerow([*(getattr(row.timing, name) for name in timing), low, high, *cost, difference, row.timing.note])
    return text.getvalue()


def format_json(rows: Sequence[Row], method: Method, disturbances: Sequence[str] = ()) -> str:
    """Everything, unrounded: `{"results": [...], "method": {...}, "disturbances": [...]}`; a difference that is not
    finite becomes null."""
    results = []
    for row in rows:
        entry = dataclasses.asdict(row)
        if row.cost is not None:
            entry["cost"]["macs"] = row.cost.macs
        if row.agreement is not None:
            entry["agreement"]["passed"] = row.agreement.passed
            for key in ("max_diff", "relative_diff"):
                entry["agreement"][key] = entry["agreement"][key] if math.isfinite(entry["agreement"][key]) else None
        results.append(entry)
    held = {"results": results, "method": dataclasses.asdict(method), "disturbances": list(disturbances)}
    return json.dumps(held, indent=2)


def short_number(value: float) -> str:
    """A count in three figures: 28.3 M, 4.49 G, 812."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{_three_figures(value / size)} {unit}"
    return f"{value:.0f}"


def short_bytes(value: int) -> str:
    """A size in three figures: 1.24 MB."""
    text = short_number(value)
    return f"{text} B" if text[-1].isdigit() else f"{text}B"


def _lines(rows: Sequence[Row]) -> list[list[str]]:
    """The headings and the cells of each row."""
    lines = [list(HEADINGS), *(_cells(row) for row in rows)]
    if rows and min(row.timing.repeats for row in rows) >= ENOUGH:
        for line, text in zip(lines, (P99, *(_three_figures(row.timing.p99_ms) for row in rows)), strict=True):
            line.insert(3, text)
    return lines


def _cells(row: Row) -> list[str]:
    timing = row.timing
    return [
        timing.name,
        _three_figures(timing.median_ms),
        f"{_three_figures(timing.p10_ms)}-{_three_figures(timing.p90_ms)}",
        _three_figures(timing.images_per_s),
        _speedup(timing),
        "-" if row.cost is None else short_number(row.cost.parameters),
        "-" if row.cost is None else short_number(row.cost.macs),
        "-" if row.size_bytes is None else short_bytes(row.size_bytes),
        "-" if row.agreement is None else f"{row.agreement.max_diff:.1e}",
    ]


def _speedup(timing: Timing) -> str:
    if timing.speedup is None or timing.speedup_interval is None:
        return "-"
    low, high = timing.speedup_interval
    return f"{timing.speedup:.2f}x ({low:.2f}-{high:.2f})"


def _notes(rows: Sequence[Row]) -> list[str]:
    return [f"{row.timing.name}: {row.timing.note}" for row in rows if row.timing.note]


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _three_figures(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
