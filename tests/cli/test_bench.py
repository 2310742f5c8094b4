"""`leanformer bench`: what is measured, and where the figures go."""

from __future__ import annotations

import csv
import json

import pytest

pytestmark = [pytest.mark.extras, pytest.mark.slow]  # OpenVINO beside many other tests ended their process


def test_a_model_of_timm_is_measured_beside_ours_in_every_runtime(run, tmp_path):
    table = tmp_path / "all.csv"
    outcome = run(
        "bench", "deit_nano", "mobilenetv4_conv_small_035", "--image-size", 64, "--forms", "eager", "folded", "onnx",
        "openvino", "--repeats", 2, "--warmup", 0, "--threads", 1, "--csv", table, "--json",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    found = json.loads(outcome.out)
    names = [
        f"{model}{form}" for model in ("deit_nano", "mobilenetv4_conv_small_035") for form in ("", " onnx", " openvino")
    ]
    assert [row["timing"]["name"] for row in found["results"]] == names
    assert [row["agreement"] and row["agreement"]["passed"] for row in found["results"]] == [None, True, True] * 2
    assert found["disturbances"] == []  # two rounds tell nothing
    with table.open() as lines:
        assert [row["name"] for row in csv.DictReader(lines)] == names
