"""Gradients that travel in buckets: what takes part, what comes late, what is frozen."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from leanformer.training.distributed import Ranks
from leanformer.training.gradients import GradientMeans


@pytest.fixture
def group():
    """A process group of this process alone: what it sends comes back."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks()
    dist.destroy_process_group()


class Choice(nn.Module):
    """Three layers in a row, some of them left out."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))

    def forward(self, x, used):
        for layer in used:
            x = torch.tanh(self.layers[layer](x))
        return x


def gradients(model, x, used):
    model.zero_grad(set_to_none=True)
    model(x, used).square().sum().backward()
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("size", [1, 200, 10_000], ids="buckets of {} bytes".format)
def test_layers_may_come_and_go_between_steps(group, size):
    torch.manual_seed(0)
    model, x = Choice(), torch.randn(4, 5)
    steps = [(0, 1, 2), (0, 2), (0, 2), (0, 1, 2), (1,), (0, 1), (0, 1, 2)]
    wanted = [gradients(model, x, used) for used in steps]
    means = GradientMeans(model.parameters(), group, bucket_bytes=size)
    for used, expected in zip(steps, wanted, strict=True):
        with means.averaging():
            found = gradients(model, x, used)
        assert [g is None for g in found] == [g is None for g in expected]
        for parameter, grad in zip(model.parameters(), expected, strict=True):
            assert grad is None or torch.equal(parameter.grad, grad)


def test_parts_before_the_last_are_added_up_first(group):
    torch.manual_seed(0)
    model, x = Choice(), torch.randn(4, 5)
    means = GradientMeans(model.parameters(), group)
    whole = gradients(model, x, (0, 1, 2))
    model.zero_grad(set_to_none=True)
    for part, last in ((x[:3], False), (x[3:], True)):
        with means.averaging(last):
            model(part, (0, 1, 2)).square().sum().backward()
    for parameter, grad in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_frozen_parameters_stay_out_and_the_model_is_left_as_it_was(group):
    model, x = Choice(), torch.randn(4, 5)
    model.layers[0].requires_grad_(False)
    means = GradientMeans(model.parameters(), group)
    model.layers[1].requires_grad_(False)
    with means.averaging():
        found = gradients(model, x, (0, 1, 2))
    assert [g is None for g in found] == [True, True, True, True, False, False]
    means.remove()
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
