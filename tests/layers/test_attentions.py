"""The baselines against readable references, and every registered attention in half precision, where linear attention
is known to overflow."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanformer.config import registered_kinds
from leanformer.errors import ConfigError
from leanformer.layers.attention import AttentionConfig, EluLinear, MultiScaleLinear
from leanformer.layers.norm import LayerNorm
from leanformer.layers.site import Reduction, Site

ATTENTIONS = [cls() for cls in registered_kinds(AttentionConfig).values()]


def weighted_mean(weights: Tensor, v: Tensor) -> Tensor:
    """The values (M, d) averaged by weights (N, M)."""
    return weights @ v / (weights.sum(-1, keepdim=True) + 1e-6)


def heads_of(x: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    return x.chunk(num_heads, dim=-1)


def test_elu_attention_is_the_quadratic_form_of_its_features() -> None:
    mixer = EluLinear().build(Site(dim=12, num_heads=3, grid=(3, 5)))
    x = torch.randn(1, 15, 12)
    expected = []
    for q, k, v in zip(*(heads_of(t, 3) for t in mixer.qkv(x)[0].chunk(3, dim=-1)), strict=True):
        q, k = (torch.where(t > 0, t + 1, t.exp()) for t in (q, k))
        expected.append(weighted_mean(q @ k.T, v))
    torch.testing.assert_close(mixer(x, (3, 5))[0], mixer.proj(torch.cat(expected, dim=-1)))


def neighborhood_of(part: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """A depthwise convolution written out place by place, then one matrix for each head."""
    kernel, bias = part.depthwise.weight[:, 0], part.depthwise.bias  # (C, 5, 5), (C,)
    image = F.pad(x.T.reshape(-1, *grid), (2, 2, 2, 2))
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    gathered = torch.stack([(image[:, r : r + 5, c : c + 5] * kernel).sum((1, 2)) + bias for r, c in places])
    matrices, biases = part.pointwise.weight[..., 0].chunk(3), part.pointwise.bias.chunk(3)
    mixed = [
        head @ matrix.T + shift for head, matrix, shift in zip(gathered.chunk(3, -1), matrices, biases, strict=True)
    ]
    return torch.cat(mixed, dim=-1)


def test_multi_scale_attention_attends_at_each_scale_and_joins_them() -> None:
    grid = (3, 5)
    mixer = MultiScaleLinear().build(Site(dim=12, num_heads=3, grid=grid))
    x = torch.randn(1, 15, 12)
    q, k, v = mixer.qkv(x)[0].chunk(3, dim=-1)
    parts = mixer.kernel.neighborhoods[0].children()
    around = [neighborhood_of(part, t, grid) for part, t in zip(parts, (q, k, v), strict=True)]
    expected = []
    for scale in ((q, k, v), around):
        for q, k, v in zip(*(heads_of(t, 3) for t in scale), strict=True):
            expected.append(weighted_mean(q.relu() @ k.relu().T, v))
    torch.testing.assert_close(mixer(x, grid)[0], mixer.kernel.join(torch.cat(expected, dim=-1)))


def test_multi_scale_attention_takes_several_odd_scales() -> None:
    mixer = MultiScaleLinear(scales=(3, 5)).build(Site(dim=8, num_heads=2, grid=(4, 4)))
    assert mixer.kernel.join.in_features == 3 * 8
    for scales in ((4,), (1,), (5, -3)):
        with pytest.raises(ConfigError, match="odd and at least 3"):
            MultiScaleLinear(scales=scales)


@pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda a: a.kind)
def test_every_attention_gives_the_channels_that_its_place_asks_for(attention: AttentionConfig) -> None:
    """In a stripe of CSwin: part of the channels, no projection, a position on the values."""
    site = Site(dim=24, dim_out=12, num_heads=2, grid=(5, 3), out_proj=False, value_position=True)
    assert attention.build(site)(torch.randn(2, 15, 24), (5, 3)).shape == (2, 15, 12)


@pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda a: a.kind)
def test_every_attention_shows_prefix_tokens_the_map_or_refuses_them(attention: AttentionConfig) -> None:
    try:
        mixer = attention.build(Site(dim=24, num_heads=2, grid=(5, 3), prefix_tokens=2))
    except ConfigError as refusal:
        assert "token" in str(refusal)
        return
    x = torch.randn(2, 17, 24, requires_grad=True)
    out = mixer(x, (5, 3))
    assert out.shape == x.shape
    (grad,) = torch.autograd.grad(out[:, :2].sum(), x)
    assert grad[:, 2:].abs().sum(-1).gt(0).all()


GRID = (64, 68)
"""4352 tokens; every seventh is dead, zero throughout."""

TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Root mean square of the error over that of the result; rounding the input alone gives a quarter of it."""

SATURATED = {torch.bfloat16: 0.2, torch.float16: 0.04}
"""Of softmax with scores in the thousands: one value wins, and rounded queries and keys may name another."""


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("magnitude", [1.0, 100.0])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("stride", [None, 4], ids=["plain", "reduced"])
@pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda a: a.kind)
def test_half_precision_stays_close_to_full_on_many_large_and_dead_tokens(
    attention: AttentionConfig, stride: int | None, dtype: torch.dtype, magnitude: float
) -> None:
    reduction = None if stride is None else Reduction(stride=stride, norm=LayerNorm())
    try:
        mixer = attention.build(Site(dim=32, num_heads=2, grid=GRID, qkv_bias=False, reduction=reduction))
    except ConfigError as refusal:
        assert "reduc" in str(refusal)
        return
    x = torch.randn(1, GRID[0] * GRID[1], 32) * magnitude
    x[:, ::7] = 0.0
    saturated = attention.kind == "softmax" and magnitude > 1.0
    with torch.no_grad():
        expected = mixer(x, GRID)
        with torch.autocast("cpu", dtype):
            automatic = mixer(x, GRID)
        pure = copy.deepcopy(mixer).to(dtype)(x.to(dtype), GRID)
    assert pure.dtype == dtype
    for actual in (automatic, pure):
        assert actual.isfinite().all()
        assert relative_error(actual, expected) < (SATURATED if saturated else TOLERANCE)[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, *TOLERANCE], ids=str)
@pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda a: a.kind)
def test_a_map_without_any_signal_gives_finite_tokens_and_gradients(
    attention: AttentionConfig, dtype: torch.dtype
) -> None:
    mixer = attention.build(Site(dim=32, num_heads=2, grid=(9, 7), qkv_bias=False)).to(dtype)
    out = mixer(torch.zeros(1, 63, 32, dtype=dtype), (9, 7))
    out.float().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in mixer.parameters() if p.grad is not None)
