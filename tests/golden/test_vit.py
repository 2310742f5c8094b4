"""DeiT without the attention of chosen blocks equals the published models; parameters and cost of every ViT."""

from __future__ import annotations

import golden
import pytest
import torch
from published import HERE, check_model, check_round_trip, weights_of

import leanformer
from leanformer import bench
from leanformer.errors import CheckpointError
from leanformer.layers.branch import Rescale

MODELS = {
    "tiny_none_shrink": "deit_tiny",
    "tiny_024_shrink": "deit_tiny_removed_024",
    "tiny_0246_shrink": "deit_tiny_removed_0246",
    "small_024_shrink": "deit_small_removed_024",
    "base_013469_shrink": "deit_base_removed_013469",
}
SLOW = {"tiny_none_shrink", "small_024_shrink", "base_013469_shrink"}
PARAMS = [pytest.param(path, id=path, marks=pytest.mark.slow if path in SLOW else ()) for path in MODELS]

COSTS = {
    "deit_tiny": (5_717_416, 1.2584),
    "deit_small": (22_050_664, 4.6083),
    "deit_base": (86_567_656, 17.5827),
    "deit_tiny_removed_024": (5_271_592, 1.1260),
    "deit_tiny_removed_0246": (5_122_984, 1.0818),
    "deit_small_removed_024": (20_274_280, 4.1692),
    "deit_small_removed_0246": (19_682_152, 4.0228),
    "deit_base_removed_01346": (74_748_136, 14.9570),
    "deit_base_removed_013469": (72_384_232, 14.4318),
}
"""Parameters, and 10^9 multiply-accumulates at 224."""


@pytest.mark.parametrize("path", PARAMS)
def test_published_weights_give_the_published_outputs_and_gradients(path: str) -> None:
    check_model(f"attention_removal/{path}", MODELS[path])


@pytest.mark.parametrize("path", ["tiny_024_shrink", "tiny_0246_shrink"])
def test_weights_go_back_under_their_published_names_unchanged(path: str) -> None:
    check_round_trip(f"attention_removal/{path}", MODELS[path])


def test_what_training_left_of_removed_attention_is_dropped_of_the_removed_blocks_alone() -> None:
    whole, removed = (golden.load(HERE / f"attention_removal/tiny_{name}_shrink.npz")[0] for name in ("none", "024"))
    left = {key: value for key, value in weights_of(whole).items() if key not in weights_of(removed)}
    assert len(left) == 18
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        models = [
            leanformer.load("deit_tiny_removed_024", weights=weights_of(removed) | more).eval() for more in ({}, left)
        ]
        assert torch.equal(models[0](image), models[1](image))
    extra = {"blocks.1.attn.scale": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 keys are foreign, first: blocks\.1\.attn\.scale"):
        leanformer.load("deit_tiny_removed_024", weights=weights_of(removed) | extra)


@pytest.mark.parametrize("name", COSTS)
def test_parameters_and_cost_are_the_published_ones(name: str) -> None:
    num_params, gmacs = COSTS[name]
    with torch.device("meta"):
        model = leanformer.build(name)
    assert sum(p.numel() for p in model.parameters()) == num_params
    assert bench.count_cost(model, 224).macs == pytest.approx(gmacs * 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("deit_tiny_distilled", 5_910_800),
        ("deit_small_distilled", 22_436_432),
        ("deit_base_distilled", 87_338_192),
        ("deit_base_384", 86_859_496),
        ("deit_base_distilled_384", 87_630_032),
        ("vit_small", 22_050_664),
    ],
)
def test_other_vits_have_the_published_number_of_parameters(name: str, num_params: int) -> None:
    with torch.device("meta"):
        model = leanformer.build(name)
    assert sum(p.numel() for p in model.parameters()) == num_params


def test_a_removed_block_has_neither_norm_nor_attention() -> None:
    with torch.device("meta"):
        model = leanformer.build("deit_tiny_removed_0246")
    blocks = model.backbone.stages[0].blocks
    assert [index for index, block in enumerate(blocks) if isinstance(block.attn, Rescale)] == [0, 2, 4, 6]
    assert not any(name.startswith("backbone.stages.0.blocks.2.attn") for name, _ in model.named_parameters())
