"""The one linear attention against a readable reference, and where half precision would break it."""

from __future__ import annotations

import pytest
import torch

from leanformer import ops


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, eps: float) -> torch.Tensor:
    weights = q.double() @ k.double().transpose(-2, -1)
    return (weights @ v.double()) / (weights.sum(-1, keepdim=True) + eps)


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).relu()


@pytest.mark.parametrize(("num_queries", "num_keys", "dim", "dim_v"), [(33, 33, 8, 8), (5, 63, 16, 4), (63, 2, 3, 7)])
def test_it_equals_the_quadratic_form_with_gradients(num_queries: int, num_keys: int, dim: int, dim_v: int) -> None:
    q, k = features(3, 2, num_queries, dim), features(3, 2, num_keys, dim, seed=1)
    v = torch.randn(3, 2, num_keys, dim_v)
    inputs = [t.requires_grad_() for t in (q, k, v)]
    out = ops.linear_attention(q, k, v, eps=1e-6)
    expected = reference(q, k, v, 1e-6)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(out)
    actual_grads = torch.autograd.grad((out * weight).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weight).sum(), inputs)
    for actual, wanted in zip(actual_grads, expected_grads, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-4)


def test_the_denominator_has_a_floor_below_which_it_gets_no_gradient() -> None:
    q, k, v = (
        t.requires_grad_() for t in (features(2, 2, 9, 4), features(2, 2, 21, 4, seed=1), torch.randn(2, 2, 21, 4))
    )
    weights = q.double() @ k.double().transpose(-2, -1)
    denominator = weights.sum(-1, keepdim=True)
    floor = 1.001 * denominator.median().item()
    expected = (weights @ v.double()) / torch.where(denominator < floor, floor, denominator)
    out = ops.linear_attention(q, k, v, floor=floor)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
    wanted = torch.autograd.grad(expected.square().sum(), (q, k, v))
    for actual, grad in zip(torch.autograd.grad(out.square().sum(), (q, k, v)), wanted, strict=True):
        torch.testing.assert_close(actual, grad, rtol=1e-3, atol=1e-4)


def test_a_dead_query_gets_exactly_zero() -> None:
    q, k, v = torch.zeros(1, 1, 3, 4), features(1, 1, 5, 4), torch.randn(1, 1, 5, 4)
    assert not ops.linear_attention(q, k, v, eps=1e-6).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 200.0])
def test_half_precision_survives_many_tokens_and_large_features(dtype: torch.dtype, magnitude: float) -> None:
    q, k = (features(1, 2, 4097, 16, seed=s).mul(magnitude).to(dtype) for s in (2, 3))
    v = torch.randn(1, 2, 4097, 16).to(dtype)
    out = ops.linear_attention(q, k, v, eps=1e-6)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), reference(q, k, v, 1e-6), rtol=2e-2, atol=2e-2)


def test_autocast_does_not_lower_its_precision() -> None:
    q, k, v = features(1, 2, 33, 8), features(1, 2, 33, 8, seed=1), torch.randn(1, 2, 33, 8)
    plain = ops.linear_attention(q, k, v, eps=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.linear_attention(q, k, v, eps=1e-6), plain)
