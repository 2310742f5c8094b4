"""ViT with other tokens in front of its map, other poolings, and blocks without attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import leanformer
from leanformer.errors import ConfigError
from leanformer.layers.norm import Norms, PRepBN
from leanformer.models import find
from leanformer.models.vit import ViT

NANO = find("deit_nano")
FORMS = [
    {"distilled": True},
    {"registers": 3},
    {"registers": 3, "prefix_positions": "read", "distilled": True},
    {"registers": 2, "prefix_positions": "none", "pool": "mean", "pool_first": True},
    {"prefix_positions": "none", "layer_scale": 1e-5, "qkv_bias": False},
    {"removed": (0, 3), "num_classes": 0},
]


def vit(**changes: object) -> ViT:
    return replace(NANO, **changes)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_trains_and_gives_maps_at_odd_sizes(form: dict) -> None:
    model = leanformer.build(vit(**form)).train()
    scores = model(torch.randn(3, 3, 40, 72))
    assert scores.shape == (3, model.config.num_classes or 64)
    scores.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    (image,) = model.backbone.forward_features(torch.randn(2, 3, 40, 72))
    assert image.shape == (2, 64, 5, 9)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_norms_of_every_form_fold_exactly(form: dict) -> None:
    model = leanformer.build(vit(**form, norms=Norms(block=PRepBN()))).train()
    image = torch.randn(4, 3, 64, 64)
    for _ in range(3):
        model(image)
    for module in model.eval().modules():
        if hasattr(module, "scheduled"):
            module.set_scheduled(0.0)
    with torch.inference_mode():
        before = model(image)
        leanformer.apply(model, leanformer.FoldNorms())
        torch.testing.assert_close(model(image), before, rtol=1e-5, atol=1e-5 * before.abs().max().item())


def test_registers_stand_between_the_class_token_and_the_map() -> None:
    model = leanformer.build(vit(registers=3, prefix_positions="read")).backbone
    tokens, grid = model.embed(torch.zeros(1, 3, 64, 64))
    assert tokens.shape == (1, 1 + 3 + 64, 64) and grid == (8, 8)
    assert torch.equal(tokens[:, :1], model.class_token + model.position.table[:, :1])
    assert torch.equal(tokens[:, 1:4], model.register_tokens)


def test_a_token_without_a_position_may_hold_it_itself() -> None:
    """How files with tables for patches alone compare: the class token's position is part of the token."""
    torch.manual_seed(0)
    own, held = leanformer.build(vit()), leanformer.build(vit(prefix_positions="none"))
    state = own.state_dict()
    table = state["backbone.position.table"]
    state["backbone.class_token"] = state["backbone.class_token"] + table[:, :1]
    state["backbone.position.table"] = table[:, 1:]
    held.load_state_dict(state)
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(own.eval()(image), held.eval()(image))


def test_a_removed_block_doubles_the_tokens_before_its_mlp() -> None:
    block = leanformer.build(vit(removed=(1,))).backbone.stages[0].blocks[1]
    x = torch.randn(2, 65, 64)
    assert torch.equal(block(x, (8, 8)), 2 * x + block.mlp.update(2 * x, (8, 8)))


def test_weight_decay_leaves_all_tokens_alone() -> None:
    model = leanformer.build(vit(registers=2, distilled=True)).backbone
    assert model.no_weight_decay() == {"position.table", "class_token", "distillation_token", "register_tokens"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"removed": (0, 4)}, r"removed names blocks from 0 to 3, each once, got \(0, 4\)"),
        ({"removed": (1, 1)}, r"removed names blocks from 0 to 3, each once, got \(1, 1\)"),
        ({"registers": -1}, "registers must be at least 0, got -1"),
        ({"pool_first": True}, "pool_first is for pool='mean'"),
        ({"distilled": True, "pool": "mean"}, "distilled adds a token that is read; it needs pool='token'"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vit(**changes)
