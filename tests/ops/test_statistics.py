"""Streaming moments equal the formulas on all rows at once, and entropies equal the published ones."""

from __future__ import annotations

import math
from pathlib import Path

import golden
import pytest
import torch

from leanformer.ops import Moments, constant_channels, gaussian_entropy

GOLDEN = Path(__file__).parents[1] / "golden" / "attention_removal"


def moments_of(rows: torch.Tensor, *sizes: int) -> Moments:
    moments = Moments()
    for batch in rows.split(list(sizes)) if sizes else [rows]:
        moments.add(batch)
    return moments


@pytest.mark.parametrize("sizes", [(33,), (1,) * 33, (7, 1, 12, 13)], ids=["at_once", "one_by_one", "uneven"])
def test_moments_of_batches_are_those_of_all_rows(sizes: tuple[int, ...]) -> None:
    rows = torch.randn(33, 5, dtype=torch.float64) * torch.tensor([1e-3, 1.0, 2.0, 50.0, 1e4]) + 7
    moments = moments_of(rows, *sizes)
    assert moments.count == 33
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(moments.variance(unbiased=True), rows.var(0), rtol=1e-11, atol=0)
    torch.testing.assert_close(moments.variance(unbiased=False), rows.var(0, correction=0), rtol=1e-11, atol=0)


def test_a_mean_that_is_large_against_the_spread_costs_no_digits() -> None:
    rows = torch.randn(3000, 3, dtype=torch.float64)
    far = moments_of(rows + 1e7, *[300] * 10)
    torch.testing.assert_close(far.variance(unbiased=True), rows.var(0), rtol=1e-7, atol=0)


def test_the_entropy_is_the_published_one_in_both_forms() -> None:
    meta, expected = golden.load(GOLDEN / "module_entropy_formula.npz")
    assert "numpy.std" in meta["factory"] and "torch.std" in meta["factory"]
    moments = moments_of(torch.from_numpy(golden.example_input((260, 10))), *[64] * 4, 4)
    assert gaussian_entropy(moments) == pytest.approx(expected["extra_block"].item(), rel=1e-12)
    bits = gaussian_entropy(moments, unbiased=True) / math.log(2)
    assert bits == pytest.approx(expected["extra_head"].item(), abs=1e-5)  # theirs sums in float32


def test_scaling_the_features_shifts_the_entropy_by_a_logarithm_each() -> None:
    rows = torch.randn(40, 6, dtype=torch.float64)
    rows[:, 2] = 3.0
    shift = gaussian_entropy(moments_of(rows * 100)) - gaussian_entropy(moments_of(rows))
    assert shift == pytest.approx(6 * math.log(100))


def test_a_constant_channel_counts_as_what_rounding_leaves_of_one() -> None:
    rows = torch.randn(40, 3)
    rows[:, 1] = 5.0
    moments = moments_of(rows)
    assert constant_channels(moments) == [1]
    varying = moments.variance(unbiased=False).sqrt()[[0, 2]].log().sum().item()
    floor = math.log(1e-6 * rows.double().square().mean().sqrt().item())
    assert gaussian_entropy(moments) == pytest.approx(varying + floor)
    assert gaussian_entropy(moments_of(torch.zeros(4, 2))) == -math.inf


def test_too_few_rows_have_no_variance() -> None:
    assert Moments().variance(unbiased=False).isnan().all()
    assert moments_of(torch.ones(1, 2)).variance(unbiased=True).isnan().all()
    assert moments_of(torch.ones(1, 2)).variance(unbiased=False).tolist() == [0.0, 0.0]
