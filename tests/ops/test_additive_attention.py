"""Additive attention against a readable reference, and where half precision would break it."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from leanformer import ops


def reference(q: torch.Tensor, k: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    out = torch.empty(k.shape, dtype=torch.float64)
    for image in range(len(q)):
        shares = torch.ones(q.shape[1], dtype=torch.float64)
        if weight is not None:
            scores = (q[image].double() @ weight.double()).squeeze(-1) / q.shape[-1] ** 0.5
            shares = scores / scores.norm()
        total = sum(share * query for share, query in zip(shares, q[image].double(), strict=True))
        out[image] = total * k[image].double()
    return out


@pytest.mark.parametrize("shares", ["l2", "ones"])
@pytest.mark.parametrize(("num_tokens", "dim"), [(33, 7), (63, 16), (1, 5)])
def test_it_equals_the_sum_token_by_token_with_gradients(num_tokens: int, dim: int, shares: str) -> None:
    q, k, weight = torch.randn(3, num_tokens, dim), torch.randn(3, num_tokens, dim), torch.randn(dim, 1)
    inputs = [t.requires_grad_() for t in ((q, k, weight) if shares == "l2" else (q, k))]
    out = ops.additive_attention(q, k, weight if shares == "l2" else None)
    expected = reference(q, k, weight if shares == "l2" else None)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
    probe = torch.randn_like(out)
    actual = torch.autograd.grad((out * probe).sum(), inputs)
    wanted = torch.autograd.grad((expected * probe).sum(), inputs)
    for ours, theirs in zip(actual, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_zero_tokens_stay_zero_with_finite_gradients() -> None:
    x = torch.zeros(2, 5, 3, requires_grad=True)
    unit = ops.unit_length(x)
    out = ops.additive_attention(unit, unit, torch.randn(3, 1))
    out.sum().backward()
    assert not out.any() and x.grad is not None and x.grad.isfinite().all()


def test_a_token_that_is_zero_but_for_rounding_gets_no_direction_and_no_boundless_gradient() -> None:
    x = torch.full((1, 1, 4), 1e-9, requires_grad=True)
    unit = ops.unit_length(x)
    unit.sum().backward()
    assert x.grad is not None and unit.norm() < 1e-4 and x.grad.abs().max() < 1.1e4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 3e4])
@pytest.mark.parametrize("shares", ["l2", "ones"])
def test_half_precision_survives_many_tokens_and_large_values(
    dtype: torch.dtype, magnitude: float, shares: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = [torch.rand(1, 4097, 16, generator=generator).mul(magnitude).to(dtype) for _ in range(2)]
    q, k = (ops.unit_length(t) for t in raw)
    weight = torch.randn(16, 1, generator=generator) if shares == "l2" else None
    out = ops.additive_attention(q, k, weight)
    assert out.dtype == dtype and out.isfinite().all()
    expected = reference(*(normalize(t.double(), dim=-1) for t in raw), weight)
    torch.testing.assert_close(out.double(), expected, rtol=2e-2, atol=2e-2 * expected.abs().max().item())


def test_autocast_does_not_lower_its_precision() -> None:
    q, k, weight = ops.unit_length(torch.randn(2, 33, 8)), ops.unit_length(torch.randn(2, 33, 8)), torch.randn(8, 1)
    plain = ops.additive_attention(q, k, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.additive_attention(q, k, weight), plain)
