"""The demo's last line is its verdict; a finished training is reused."""

from __future__ import annotations

import re

import pytest

import leanformer
from leanformer.cli.demo import _verdict

GOOD = {
    "top1": 0.881,
    "folded_max_diff": 2e-6,
    "folded_changed_predictions": 0,
    "folded_top1": 0.881,
    "onnx_top1": 0.881,
    "onnx_norms": 0,
}
FIGURES = r"top1=\d\.\d{3} folded_max_diff=\S+ onnx_top1=\d\.\d{3} seconds=\d+ report=\S+"


def test_a_demo_that_keeps_its_promises_ends_with_ok_and_the_figures(capsys, tmp_path):
    assert _verdict(GOOD, 150.2, 181.7, tmp_path / "report.html") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"demo ok: top1=0.881 folded_max_diff=2.0e-06 onnx_top1=0.881 seconds=182 report={tmp_path}/report.html"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"top1": 0.8599}, r"top-1 0\.8599 is below 0\.86"),
        ({"folded_max_diff": 2e-4}, r"folding changed a score by 2\.0e-04, more than 1e-04"),
        ({"folded_max_diff": float("nan")}, "folding changed a score by nan, more than 1e-04"),
        ({"folded_changed_predictions": 3}, "folding changed 3 predictions"),
        ({"onnx_top1": 0.880}, "the exported file has norms left or another accuracy"),
        ({"onnx_norms": 1}, "the exported file has norms left or another accuracy"),
    ],
)
def test_a_broken_promise_fails_the_demo_and_is_named_before_the_figures(capsys, tmp_path, change, why):
    assert _verdict(GOOD | change, 150.2, 181.7, tmp_path / "report.html") == 1
    assert re.fullmatch(rf"demo failed: {why}; {FIGURES}", capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.extras
def test_a_demo_of_one_epoch_goes_the_whole_way_and_misses_the_accuracy(run, tmp_path):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "demo"
    quick = ["demo", "--epochs", 1, "--repeats", 3, "--out", out]
    first = run(*quick)
    assert first.status == 1
    assert re.fullmatch(rf"demo failed: top-1 0\.\d{{4}} is below 0\.86; {FIGURES}", first.out.splitlines()[-1])
    for step in ("1/5 train", "2/5 fold", "3/5 export", "4/5 measure", "5/5 write"):
        assert f"\n{step}" in f"\n{first.out}"
    assert "0 of them normalisations" in first.out
    assert (out / "demo.html").stat().st_size > 50_000
    assert [edit.kind for edit in leanformer.load(out / "folded").edits] == ["fold_norms"]

    weights = (out / "model.safetensors").read_bytes()
    again = run(*quick)
    assert "is finished; there is nothing to resume" in again.err
    assert again.status == 1
    assert (out / "model.safetensors").read_bytes() == weights
    assert re.findall("top1=(.....)", again.out) == re.findall("top1=(.....)", first.out)

    other = run("demo", "--epochs", 2, "--out", out)
    assert other.status == 2
    assert "epochs: 1 -> 2" in other.err
