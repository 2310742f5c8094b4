"""Parameter groups spare the right parameters, and an optimizer's state survives being flattened into named tensors."""

import json
import math

import pytest
import torch
from torch import nn

from leanformer.config import from_dict, to_dict
from leanformer.errors import ConfigError
from leanformer.training.groups import Groups, parameter_groups
from leanformer.training.optimizers import (
    SGD,
    AdamW,
    OptimizerConfig,
    TimmOptimizer,
    load_optimizer_state,
    optimizer_state,
    scale_groups,
)

TIMM = ("lamb", "lion", "adan", "adafactorbv", "nadamw", "madgrad", "muon", "rmsproptf", "lars", "novograd")


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 5, 3))
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(3)
        self.frozen = nn.Parameter(torch.randn(3, 3), requires_grad=False)

    def no_weight_decay(self):
        return {"table"}

    def forward(self, x):
        return self.linear(self.norm(x + self.table.mean(dim=(0, 1))))


def steps(model, optimizer, count, seed):
    torch.manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(7, 3)).square().mean().backward()
        optimizer.step()


def test_decay_reaches_matrices_that_the_model_does_not_name():
    decayed, spared = parameter_groups(Small(), lr=0.1, weight_decay=0.05)
    assert [name for name, _ in decayed["params"]] == ["linear.weight"]
    assert {name for name, _ in spared["params"]} == {"table", "linear.bias", "norm.weight", "norm.bias"}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)


def test_a_wholly_frozen_model_is_refused():
    with pytest.raises(ConfigError, match="no parameter to train"):
        AdamW().build(Small().requires_grad_(False))


def test_a_factor_multiplies_the_base_values_and_not_the_last_ones():
    optimizer = AdamW(lr=0.2, weight_decay=0.4).build(Small())
    for factor in (0.5, 0.25):
        scale_groups(optimizer, "lr", factor)
        scale_groups(optimizer, "weight_decay", factor)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.05])
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.0])


EXACT = [AdamW(lr=0.01), SGD(lr=0.01), SGD(momentum=0.0), *(TimmOptimizer(name=name, lr=0.01) for name in TIMM)]


@pytest.mark.parametrize("config", EXACT, ids=lambda config: getattr(config, "name", config.kind))
def test_a_restored_optimizer_goes_on_exactly(config):
    torch.manual_seed(0)
    straight = Small()
    optimizer = config.build(straight)
    steps(straight, optimizer, 3, seed=1)
    copy = Small()
    copy.load_state_dict(straight.state_dict())
    tensors, numbers = optimizer_state(optimizer)
    restored = config.build(copy)
    load_optimizer_state(
        restored, {name: value.clone() for name, value in tensors.items()}, json.loads(json.dumps(numbers))
    )
    steps(straight, optimizer, 3, seed=2)
    steps(copy, restored, 3, seed=2)
    for (name, mine), theirs in zip(copy.named_parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize(
    "config",
    [AdamW(betas=(0.8, 0.95)), SGD(nesterov=True), TimmOptimizer(name="lion", options=(("betas", (0.9, 0.98)),))],
    ids=str,
)
def test_an_optimizer_survives_json(config):
    assert from_dict(to_dict(config), OptimizerConfig) == config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TimmOptimizer(name="lambb"), "did you mean lamb"),
        (TimmOptimizer(name="kron"), "could not be resumed exactly"),
        (TimmOptimizer(name="lamb", options=(("bettas", 1),)), "bettas"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_optimizer_that_cannot_be_made_says_why(config, message):
    with pytest.raises(ConfigError, match=message):
        config.build(Small())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamW(eps=-1.0), "eps must be finite and 0 or more, got -1.0"),
        (lambda: AdamW(betas=(2, 0.9)), r"betas must be 0 or more and below 1, got \(2, 0.9\)"),
        (lambda: AdamW(betas=(0.9, math.nan)), r"betas must be .*, got \(0.9, nan\)"),
        (lambda: AdamW(lr=-1.0), r"\(lr\) must be finite and not negative, got -1.0"),
        (lambda: AdamW(weight_decay=math.nan), "weight_decay must be finite and 0 or more, got nan"),
        (lambda: SGD(momentum=-0.9), "momentum must be finite and 0 or more, got -0.9"),
        (lambda: SGD(momentum=0.0, nesterov=True), "nesterov needs a momentum above 0"),
    ],
)
def test_an_impossible_value_of_an_optimizer_is_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_patterns_move_parameters_between_the_groups():
    groups = Groups(decayed=("norm.weight", "tab*"), spared=("linear.*",))
    decayed, spared = parameter_groups(Small(), 0.1, 0.05, groups)
    assert {name for name, _ in decayed["params"]} == {"table", "norm.weight"}
    assert {name for name, _ in spared["params"]} == {"linear.weight", "linear.bias", "norm.bias"}


def test_a_pattern_that_fits_nothing_is_an_error():
    with pytest.raises(ConfigError, match=r"no parameter of the model fits '\*\.gamma'"):
        parameter_groups(Small(), 0.1, 0.05, Groups(decayed=("*.gamma",)))
