"""Merged tokens equal the published ones: outputs, gradients, sizes and sources of whole models, matching step by step,
and what the models cost."""

from __future__ import annotations

import re
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from published import DEAD, HERE, close, gradient_norms, weights_of

import leanformer
from leanformer import bench, ops
from leanformer.edits import MergeTokens
from leanformer.edits.tokens import merge_amounts, trace_tokens

GOLDENS = HERE / "attention_removal"
SCHEDULES = {"13dec": (13, -1.0), "8inc": (8, 0.5), "list": (0, 5, 40, 0, 60)}
QUICK = {"tiny_024_tome_start1_r19", "tiny_024_tome_start1_rlist", "tiny_none_tome_start0_r13dec"}
QUICK |= {"tiny_none_tome_start0_r13_noprop", "tiny_none_tome_start0_r50"}
NAMES = sorted(path.stem for path in GOLDENS.glob("*_tome_start*.npz"))
PARAMS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]

COSTS = [
    ("deit_base_removed_01346", 1, 24, 53, 11.4450),
    ("deit_base_removed_01346", 1, 28, 29, 10.8686),
    ("deit_base_removed_013469", 0, 14, 113, 11.9100),
    ("deit_small_removed_024", 1, 22, 22, 2.7115),
    ("deit_small_removed_0246", 1, 19, 64, 2.9974),
    ("deit_tiny_removed_024", 1, 19, 45, 0.7802),
    ("deit_tiny_removed_0246", 1, 14, 99, 0.8749),
    ("deit_tiny", 0, 13, 41, 0.7373),
    ("deit_small", 0, 13, 41, 2.7117),
    ("deit_base", 0, 13, 41, 10.3815),
]
"""Model, start, r, tokens at the end, and 10^9 multiply-accumulates at 224."""


def edit_of(name: str) -> tuple[str, MergeTokens]:
    size, removed, start, r, noprop = re.fullmatch(r"(\w+?)_(\w+?)_tome_start(\d)_r(\w+?)(_noprop)?", name).groups()
    model = f"deit_{size}" if removed == "none" else f"deit_{size}_removed_{removed}"
    return model, MergeTokens(r=SCHEDULES.get(r) or int(r), start=int(start), proportional=noprop is None)


@pytest.mark.parametrize("name", PARAMS)
def test_models_with_merged_tokens_equal_the_published_ones(name: str) -> None:
    meta, expected = golden.load(GOLDENS / f"{name}.npz")
    config, edit = edit_of(name)
    model = leanformer.load(config, weights=weights_of(meta))
    leanformer.apply(model, edit)
    images = torch.from_numpy(golden.example_input(meta["input_shape"]))

    with torch.no_grad():
        ends = trace_tokens(model, images)
    counts = {197, *(end.x.shape[1] for end in ends)}
    assert counts == {*expected["extra_tokens_seen"].tolist(), expected["extra_token_size"].shape[1]}
    assert np.array_equal(ends[-1].sizes.numpy()[..., None], expected["extra_token_size"])
    assert np.array_equal(ends[-1].index.numpy(), expected["extra_token_source"])

    output = model(images)
    close(output, expected["output"])
    largest = np.nanmax(expected["grad_norms"])
    norms = gradient_norms(model, output, meta)
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=1e-3, atol=DEAD * largest)


CASES = {
    "r13_cls": (13, 1),
    "r13_nocls": (13, 0),
    "r13_cls_dist": (13, 2),
    "r98_cls": (98, 1),
    "r200_cls": (200, 1),
    "r90_nocls": (90, 0),
}


@pytest.fixture(scope="module")
def steps() -> tuple[torch.Tensor, torch.Tensor, dict[str, np.ndarray]]:
    _, arrays = golden.load(Path(GOLDENS) / "module_tome_merge.npz")
    keys, x = (torch.from_numpy(golden.example_input((2, 197, dim))) for dim in (64, 48))
    return keys, x, arrays


@pytest.mark.parametrize("case", CASES)
def test_matching_merging_and_the_way_back_equal_the_published_ones(case: str, steps: tuple) -> None:
    keys, x, expected = steps
    groups = ops.match_tokens(keys, *CASES[case])
    merged, sizes = ops.merge_tokens(x, groups)
    assert np.array_equal(groups.index.numpy(), expected[f"extra_{case}_source"])
    assert np.array_equal(sizes.numpy()[..., None], expected[f"extra_{case}_size"])
    if case == "r13_nocls":
        close(merged, expected["extra_r13_nocls_wavg"], atol=1e-6)
    if case == "r13_cls":
        close(ops.unmerge_tokens(merged, groups.index), expected["extra_r13_cls_unmerge"], atol=1e-6)


def test_two_mergings_carry_sizes_and_sources(steps: tuple) -> None:
    keys, x, expected = steps
    first = ops.match_tokens(keys, 40, 1)
    merged, sizes = ops.merge_tokens(x, first)
    second = ops.match_tokens(ops.merge_tokens(keys, first)[0], 30, 1)
    merged, sizes = ops.merge_tokens(merged, second, sizes)
    close(merged, expected["extra_twice_x"], atol=1e-6)
    assert np.array_equal(sizes.numpy()[..., None], expected["extra_twice_size"])
    assert np.array_equal(second.index.gather(1, first.index).numpy(), expected["extra_twice_source"])


def test_schedules_equal_the_published_ones() -> None:
    meta, _ = golden.load(GOLDENS / "module_tome_parse_r.npz")
    for row in meta["table"]:
        r = (row["r"][0], float(row["r"][1])) if row["kind"] == "tuple" else row["r"]
        r = tuple(r) if isinstance(r, list) else r
        assert merge_amounts(r, row["num_layers"]) == tuple(row["out"])


@pytest.mark.parametrize(
    ("name", "start", "r", "left", "gmacs"),
    [pytest.param(*row, marks=() if "tiny" in row[0] else pytest.mark.slow) for row in COSTS],
)
def test_the_cost_of_merged_models_is_the_published_one(name: str, start: int, r: int, left: int, gmacs: float) -> None:
    with torch.device("meta"):
        model = leanformer.build(name)
    report = leanformer.apply(model, MergeTokens(r=r, start=start))[0]
    assert f"197 tokens become {left}, in" in report.lines[0]
    assert bench.count_cost(model, 224).macs == pytest.approx(gmacs * 1e9, rel=0.01)
