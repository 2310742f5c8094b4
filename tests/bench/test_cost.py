"""Counted parameters and multiply-accumulates equal those worked out by hand, and those of an independent counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from leanformer.bench import count_cost, count_parts, known_cost
from leanformer.bench.known import _table, count_registered
from leanformer.layers.attention import Additive, FocusedLinear, MultiScaleLinear, SimplifiedLinear
from leanformer.models import ImageClassifier
from leanformer.zoo import find, list_models


class Attention(nn.Module):
    """Softmax attention as a kernel that declares its cost."""

    def macs(self, num_queries: int, num_keys: int) -> int:
        return 2 * num_queries * num_keys * 8

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(1, 2)).softmax(-1) @ v


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.qkv = nn.Linear(8, 24)
        self.kernel = Attention()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        B, C, H, W = x.shape
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        windows = (t.reshape(B * H, W, C) for t in (q, k, v))  # a row of tokens is a window
        return self.depthwise(self.kernel(*windows).reshape(B, H, W, C).permute(0, 3, 1, 2)).mean((2, 3))


def counted(model: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-accumulates seen by torch, with attention spelt out as matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.eval()(torch.zeros(1, 3, *size))
    return counter.get_total_flops() // 2


def test_costs_of_a_small_model_worked_out_by_hand():
    cost = count_cost(Small(), (20, 12))  # a 5 x 3 map of 8 channels
    assert cost.parameters == (8 * 3 * 16 + 8) + (24 * 8 + 24) + (8 * 9 + 8)
    assert cost.linear_macs == 15 * 8 * 24
    assert cost.conv_macs == 15 * 8 * 48 + 15 * 8 * 9
    assert cost.attention_macs == 5 * (2 * 3 * 3 * 8)
    assert cost.macs == cost.linear_macs + cost.conv_macs + cost.attention_macs


def test_counting_changes_nothing_about_the_model():
    model = Small().train()
    count_cost(model, 16)
    assert model.training and model.stem.weight.device.type == "cpu"
    assert not any(module._forward_hooks for module in model.modules())


def test_large_images_cost_no_memory_to_count():
    assert count_cost(Small(), 1 << 14).macs > 1e10


@pytest.mark.parametrize(
    "attention", [None, SimplifiedLinear(), FocusedLinear(), MultiScaleLinear(), Additive()], ids=str
)
@pytest.mark.parametrize("name", ["deit_tiny", "swin_tiny"])
def test_the_count_is_that_of_an_independent_counter(name, attention):
    config = replace(find(name), image_size=64)
    if attention is not None:
        config = replace(config, attention=attention)
    model = ImageClassifier(config)
    assert count_cost(model, 64).macs == pytest.approx(counted(model, (64, 64)), rel=2e-3)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("flatten_swin_tiny", 4.483e9),
        ("slab_swin_tiny", 4.491e9),
        ("swin_tiny_prepbn", 4.498e9),
        ("slab_deit_tiny", 1.141e9),
        ("deit_tiny_prepbn", 1.256e9),
    ],
)
def test_published_models_cost_what_is_published(name, published):
    with torch.device("meta"):
        model = ImageClassifier(find(name))
    assert count_cost(model, 224).macs == pytest.approx(published, rel=0.01)


def parts_of(config):
    with torch.device("meta"):
        model = ImageClassifier(config)
    parts = count_parts(model, config.image_grid)
    assert sum(parts.values()) == count_cost(model, config.image_grid).macs
    return parts


def test_the_parts_of_a_plain_model_worked_out_by_hand():
    config = find("deit_nano")  # 64 tokens and a class token of 64 channels, 4 blocks, 10 classes
    assert parts_of(config) == {
        "stem": 64 * 64 * 3 * 8 * 8,
        "downsampling": 0,
        "attention projections": 4 * 65 * 4 * 64 * 64,
        "attention": 4 * 2 * 65 * 65 * 64,
        "local convolutions": 0,
        "MLP": 4 * 65 * 8 * 64 * 64,
        "head": 64 * 10,
    }


def test_convolutions_around_a_token_are_local_wherever_they_are():
    config = replace(find("deit_nano"), pool="mean")
    plain, local = parts_of(config), parts_of(replace(config, attention=SimplifiedLinear()))
    assert (plain["local convolutions"], local["local convolutions"]) == (0, 4 * 64 * 64 * 25)
    for name in ("pvt_v2_nano", "swiftformer_nano", "l2vit_nano"):  # in MLPs, as blocks, between branches
        assert parts_of(find(name))["local convolutions"] > 0


def test_the_table_of_known_costs_is_complete_and_its_parameters_are_true():
    assert list(_table()) == list_models(), "python tools/count_costs.py counts again"
    for name in list_models():
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in ImageClassifier(find(name)).parameters())
        assert known_cost(name).parameters == parameters, name


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name.endswith(("_nano", "_tiny")) else pytest.mark.slow) for name in list_models()],
)
def test_the_known_cost_is_the_counted_one(name):
    assert known_cost(name) == known_cost(f"{name}.in1k") == count_registered(name)
