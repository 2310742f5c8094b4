"""Results read the same in a terminal, in Markdown and in JSON, and always carry their method."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace

import pytest
import torch

from leanformer.bench import (
    Agreement,
    Cost,
    Row,
    Timing,
    format_csv,
    format_json,
    format_markdown,
    format_text,
    record_method,
)
from leanformer.bench.table import short_bytes, short_number

EAGER = Row(
    timing=Timing(
        name="eager", median_ms=12.345, p10_ms=11.9, p90_ms=110.4, p99_ms=120.0, min_ms=11.8, repeats=50,
        images_per_s=81.0,
        speedup=1.0, speedup_interval=(1.0, 1.0),
    ),
    cost=Cost(parameters=1_234_567, linear_macs=4_400_000_000, conv_macs=60_000_000, attention_macs=31_000_000),
    size_bytes=4_940_000,
)  # fmt: skip
FILE = Row(
    timing=Timing(
        name="onnx | cpu", median_ms=6.1, p10_ms=6.0, p90_ms=6.25, p99_ms=6.5, min_ms=5.9, repeats=50,
        images_per_s=163.9,
        note="no speed-up: it differs",
    ),
    agreement=Agreement(name="onnx | cpu", reference="eager", max_diff=0.5, relative_diff=0.1, tolerance=1e-4),
)  # fmt: skip


@pytest.fixture(scope="module")
def method():
    return record_method(batch_size=3, image_size=(20, 12), warmup=5, repeats=50, threads=2)


def test_the_text_table_is_aligned_and_ends_with_the_notes():
    assert format_text([EAGER, FILE]).splitlines() == [
        "model       median ms  p10-p90 ms  images/s    speed-up (95 %)  params    MACs     size  max diff",
        "----------  ---------  ----------  --------  -----------------  ------  ------  -------  --------",
        "eager            12.3    11.9-110      81.0  1.00x (1.00-1.00)  1.23 M  4.49 G  4.94 MB         -",
        "onnx | cpu       6.10   6.00-6.25       164                  -       -       -        -   5.0e-01",
        "onnx | cpu: no speed-up: it differs",
    ]


def test_markdown_escapes_the_separator_and_lists_the_method(method):
    text = format_markdown([EAGER, FILE], method)
    assert "| onnx \\| cpu | 6.10 |" in text
    assert "- threads: 2" in text and "- image size: 20 x 12" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_json_holds_everything_unrounded(method):
    data = json.loads(format_json([EAGER, FILE], method))
    assert data["results"][0]["timing"]["median_ms"] == 12.345
    assert data["results"][0]["cost"]["macs"] == 4_491_000_000
    assert data["results"][1]["agreement"]["passed"] is False
    assert data["method"]["batch_size"] == 3 and data["method"]["versions"]["torch"] == torch.__version__


def test_json_stays_json_when_outputs_are_not_finite(method):
    lost = Agreement(name="a", reference="b", max_diff=float("nan"), relative_diff=float("inf"), tolerance=1e-4)
    data = json.loads(format_json([replace(FILE, agreement=lost)], method), parse_constant=pytest.fail)
    assert data["results"][0]["agreement"]["max_diff"] is None


def test_the_method_names_machine_versions_command_and_settings(method):
    rows = dict(method.rows())
    assert rows["threads"] == "2" and rows["repeats"] == "50" and rows["dtype"] == "float32"
    assert rows["cpu"] and int(rows["cores"]) >= 1
    assert sys.argv[0] in rows["command"]
    assert rows["date"].endswith("+00:00")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (812, "812"), (999.7, "1.00 k"), (28_288_354, "28.3 M"), (4.491e9, "4.49 G"), (123456, "123 k")],
)
def test_counts_are_shown_in_three_figures(value, text):
    assert short_number(value) == text


def test_sizes_are_shown_in_bytes():
    assert short_bytes(812) == "812 B" and short_bytes(1_240_000) == "1.24 MB"


def test_a_hundred_rounds_have_a_99th_percentile():
    many = replace(EAGER, timing=replace(EAGER.timing, repeats=100))
    text = format_text([many]).splitlines()
    assert text[0].split("  ")[2:] and "p10-p90 ms  p99 ms  images/s" in text[0] and " 120 " in text[2]
    assert "p99" not in format_text([many, FILE]) and "| p99 ms |" in format_markdown([many])


def test_csv_holds_everything_unrounded():
    first, second = csv.DictReader(io.StringIO(format_csv([EAGER, FILE])))
    assert first["name"] == "eager" and float(first["median_ms"]) == 12.345 and int(first["macs"]) == 4_491_000_000
    assert float(first["speedup_high"]) == 1.0 and first["max_diff"] == ""
    assert second["speedup"] == second["macs"] == "" and float(second["max_diff"]) == 0.5
    assert second["note"] == "no speed-up: it differs"
