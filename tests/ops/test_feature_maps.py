"""The focusing map keeps a token's norm, sharpens it, and stays finite where the plain formula does not."""

from __future__ import annotations

import pytest
import torch

from leanformer import ops


@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_it_equals_the_formula_and_keeps_the_norm(power: int) -> None:
    x = torch.rand(2, 33, 12, dtype=torch.float64) + 0.1
    expected = x**power * x.norm(dim=-1, keepdim=True) / (x**power).norm(dim=-1, keepdim=True)
    out = ops.focused_map(x, power)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.double().norm(dim=-1), x.norm(dim=-1), rtol=1e-5, atol=1e-6)


def test_power_one_is_the_identity() -> None:
    x = torch.rand(3, 7, 5) + 0.01
    torch.testing.assert_close(ops.focused_map(x, 1), x)


@pytest.mark.parametrize("power", [3, 8, 32])
def test_tokens_of_tiny_features_stay_finite_with_gradients(power: int) -> None:
    x = torch.full((1, 2, 8), 1e-6, requires_grad=True)
    out = ops.focused_map(x, power)
    out.sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    torch.testing.assert_close(out, x.detach())
