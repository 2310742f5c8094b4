"""Recalibrated batch norms hold the plain averages over the batches that they saw."""

import pytest
import torch
from torch import nn

from leanformer.errors import ConfigError
from leanformer.layers.norm import ProgressiveNorm, RepBatchNorm
from leanformer.training import RecalibrateBatchNorm


def some_batches(sizes=(9, 9, 9), channels=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 7, channels, generator=generator) * 3 + 1 for size in sizes]


def serve(batches):
    return lambda count: iter(batches[:count])


def test_statistics_are_the_averages_over_the_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), RepBatchNorm(4)).train()
    model(torch.randn(50, 7, 5) + 9)  # leaves statistics that must not survive
    batches = some_batches()
    RecalibrateBatchNorm(batches=3).apply(model, serve(batches))
    inputs = [model[0](batch).flatten(0, 1) for batch in batches]
    mean = torch.stack([x.mean(0) for x in inputs]).mean(0)
    variance = torch.stack([x.var(0, unbiased=True) for x in inputs]).mean(0)
    torch.testing.assert_close(model[1].bn.running_mean, mean)
    torch.testing.assert_close(model[1].bn.running_var, variance)
    assert not any(module.training for module in model.modules())


def test_a_later_norm_sees_what_the_earlier_ones_make_of_the_batch():
    torch.manual_seed(0)
    model = nn.Sequential(RepBatchNorm(5), nn.GELU(), RepBatchNorm(5))
    (batch,) = some_batches((12,))
    RecalibrateBatchNorm(batches=1).apply(model, serve([batch]))
    model[0].train()
    with torch.no_grad():
        seen = model[1](model[0](batch)).flatten(0, 1)
    torch.testing.assert_close(model[2].bn.running_mean, seen.mean(0))


def test_a_progressive_norm_is_measured_on_its_final_side():
    norm = ProgressiveNorm(nn.LayerNorm(5), RepBatchNorm(5))
    norm.set_scheduled(1.0)
    model = nn.Sequential(norm)
    batches = some_batches()
    RecalibrateBatchNorm(batches=2).apply(model, serve(batches))
    expected = torch.stack([batch.flatten(0, 1).mean(0) for batch in batches[:2]]).mean(0)
    torch.testing.assert_close(norm.rep.bn.running_mean, expected)


def test_weights_and_momentum_are_left_alone():
    model = nn.Sequential(RepBatchNorm(5), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.named_parameters()}
    said = RecalibrateBatchNorm(batches=9).apply(model, serve(some_batches()))
    assert said == "recalibrated 1 batch norms over 3 batches"
    assert model[0].bn.momentum == 0.1
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_model_without_batch_norm_is_left_as_it_is():
    model = nn.Sequential(nn.LayerNorm(5))
    assert "no batch norm" in RecalibrateBatchNorm().apply(model, serve(some_batches()))


def test_no_batches_is_refused():
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        RecalibrateBatchNorm(batches=0)


def test_with_a_momentum_the_statistics_go_on_from_where_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(RepBatchNorm(5))
    batches = some_batches()
    RecalibrateBatchNorm(batches=3, passes=2, momentum=0.1).apply(model, serve(batches))
    mean = torch.zeros(5)
    for batch in batches * 2:
        mean = 0.9 * mean + 0.1 * batch.flatten(0, 1).mean(0)
    torch.testing.assert_close(model[0].bn.running_mean, mean)
