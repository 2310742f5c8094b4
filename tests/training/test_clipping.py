"""Clipping equals torch's and the published adaptive one."""

import golden
import pytest
import torch
from published import HERE
from torch import nn

from leanformer.errors import ConfigError
from leanformer.training.clipping import Clip


def parameters(*pairs):
    made = []
    for value, grad in pairs:
        made.append(nn.Parameter(value.clone()))
        made[-1].grad = grad.clone()
    return made


def test_adaptive_clipping_equals_swiftformer():
    _, arrays = golden.load(HERE / "swiftformer/training_pieces.npz")
    read = [
        [torch.from_numpy(arrays[f"extra_agc_{what}_{i}"]) for what in ("param", "grad_before", "grad_after")]
        for i in range(5)
    ]
    ours = parameters(*[(value, before) for value, before, _ in read])
    norm = Clip(limit=0.01, by="adaptive").apply(ours)
    for parameter, (_, _, after) in zip(ours, read, strict=True):
        torch.testing.assert_close(parameter.grad, after, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(norm, torch.cat([before.flatten() for _, before, _ in read]).norm())


@pytest.mark.parametrize("by", ["norm", "value"])
def test_the_limit_holds_and_the_norm_is_that_before(by):
    torch.manual_seed(0)
    ours = parameters(*[(torch.randn(5, 3), torch.randn(5, 3)) for _ in range(3)])
    ours.append(nn.Parameter(torch.ones(2)))  # without a gradient
    before = torch.cat([p.grad.flatten() for p in ours[:3]])
    norm = Clip(limit=0.5, by=by).apply(ours)
    after = torch.cat([p.grad.flatten() for p in ours[:3]])
    torch.testing.assert_close(norm, before.norm())
    torch.testing.assert_close(after, before * 0.5 / before.norm() if by == "norm" else before.clamp(-0.5, 0.5))


@pytest.mark.parametrize("changes", [{"limit": 0.0}, {"eps": 0.0}, {"by": "size"}], ids=str)
def test_impossible_clipping_names_the_value(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Clip(**{"limit": 1.0} | changes)
