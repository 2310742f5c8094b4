"""Measurements with their method: latency in turns, cost on paper, equality of outputs before any claim of speed."""

from leanformer.bench.compare import Agreement, Comparison, check_outputs, compare
from leanformer.bench.cost import Cost, count_cost
from leanformer.bench.known import KnownCost, known_cost
from leanformer.bench.latency import (
    Runner,
    Timing,
    eager_runner,
    measure_interleaved,
    summarize,
    time_in_turns,
    with_speedup,
)
from leanformer.bench.method import Method, record_method
from leanformer.bench.part_times import PartTimes, time_parts
from leanformer.bench.parts import count_parts
from leanformer.bench.steadiness import disturbances
from leanformer.bench.table import Row, format_csv, format_json, format_markdown, format_text

__all__ = [
    "Agreement",
    "Comparison",
    "Cost",
    "KnownCost",
    "Method",
    "PartTimes",
    "Row",
    "Runner",
    "Timing",
    "check_outputs",
    "compare",
    "count_cost",
    "count_parts",
    "disturbances",
    "eager_runner",
    "format_csv",
    "format_json",
    "format_markdown",
    "format_text",
    "known_cost",
    "measure_interleaved",
    "record_method",
    "summarize",
    "time_in_turns",
    "time_parts",
    "with_speedup",
]
