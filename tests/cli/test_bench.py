"""`leanformer bench`: what is measured, and where the figures go."""

from __future__ import annotations

import csv
import json

import pytest

pytestmark = [pytest.mark.extras, pytest.mark.runtimes]


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


def test_a_form_that_cannot_be_had_leaves_the_others_measured(run, monkeypatch):
    from leanformer.errors import ExportError

    def refuse(model, path, **more):
        raise ExportError(f"{path.name} does not compute what the model does: max difference nan; kept as /gone")

    monkeypatch.setattr("leanformer.export.export_model", refuse)
    settings = ("--image-size", 16, "--repeats", 2, "--warmup", 0, "--threads", 1)
    outcome = run("bench", "deit_nano", "--forms", "eager", "onnx", *settings)
    assert outcome.status == 1
    assert "deit_nano onnx is not measured: 1.onnx does not compute" in outcome.out.replace("0.onnx", "1.onnx")
    assert "/gone" not in outcome.out and "images/s" in outcome.out
    assert "nothing is left to measure: deit_nano onnx" in run("bench", "deit_nano", "--forms", "onnx", *settings).err
