"""Models of timm with random weights, loaded under timm's key names, give timm's outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from oracles import check_equal, randomize

import leanformer
from leanformer.errors import CheckpointError
from leanformer.models import find
from leanformer.models.vit import ViT

slow = pytest.mark.slow
SMALL_DINOV2 = {"image_size": 56}
MEDIUM = ViT(
    image_size=256,
    dim=512,
    num_heads=8,
    pool="mean",
    pool_first=True,
    registers=4,
    prefix_positions="none",
    layer_scale=1e-5,
)
# timm name, our name or config, layout, arguments of timm
CASES = [
    ("deit_tiny_patch16_224", "deit_tiny", "published", {}),
    ("deit_tiny_distilled_patch16_224", "deit_tiny_distilled", "published", {}),
    pytest.param("deit_small_patch16_224", "deit_small", "published", {}, marks=slow),
    pytest.param("deit_small_distilled_patch16_224", "deit_small_distilled", "published", {}, marks=slow),
    pytest.param("deit_base_patch16_224", "deit_base", "published", {}, marks=slow),
    pytest.param("deit_base_distilled_patch16_224", "deit_base_distilled", "published", {}, marks=slow),
    pytest.param("deit_base_patch16_384", "deit_base_384", "published", {}, marks=slow),
    pytest.param("deit_base_distilled_patch16_384", "deit_base_distilled_384", "published", {}, marks=slow),
    ("vit_tiny_patch16_224", "vit_tiny", "published", {}),
    pytest.param("vit_small_patch16_224", "vit_small", "published", {}, marks=slow),
    pytest.param("vit_base_patch16_224", "vit_base", "published", {}, marks=slow),
    pytest.param("deit3_small_patch16_224", "deit_small", "published", {}, marks=slow),
    ("vit_small_patch14_dinov2", replace(find("vit_small_dinov2"), **SMALL_DINOV2), "published", {"img_size": 56}),
    (
        "vit_small_patch14_reg4_dinov2",
        replace(find("vit_small_dinov2_registers"), **SMALL_DINOV2),
        "timm",
        {"img_size": 56},
    ),
    pytest.param("vit_medium_patch16_reg4_gap_256", MEDIUM, "timm", {}, marks=slow),
    ("swin_tiny_patch4_window7_224", "swin_tiny", "timm", {}),
    pytest.param("swin_base_patch4_window7_224", "swin_base", "timm", {}, marks=slow),
    ("pvt_v2_b0", "pvt_v2_b0", "timm", {}),
    pytest.param("pvt_v2_b1", "pvt_v2_b1", "timm", {}, marks=slow),
    pytest.param("pvt_v2_b2", "pvt_v2_b2", "timm", {}, marks=slow),
    pytest.param("pvt_v2_b2_li", "pvt_v2_b2_linear", "timm", {}, marks=slow),
    pytest.param("pvt_v2_b3", "pvt_v2_b3", "timm", {}, marks=slow),
    pytest.param("pvt_v2_b4", "pvt_v2_b4", "timm", {}, marks=slow),
    pytest.param("pvt_v2_b5", "pvt_v2_b5", "timm", {}, marks=slow),
]


@pytest.mark.parametrize(("theirs", "ours", "layout", "options"), CASES)
def test_equal_weights_give_equal_outputs(theirs: str, ours: str | ViT, layout: str, options: dict) -> None:
    model = timm.create_model(theirs, **options).eval()
    randomize(model)
    loaded = check_equal(ours, model.state_dict(), model, layout)
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"reg_tokens": 4}, {"registers": 4, "prefix_positions": "all"}),
        ({"reg_tokens": 4, "no_embed_class": True}, {"registers": 4, "prefix_positions": "none"}),
        ({"init_values": 1e-5}, {"layer_scale": 1e-5}),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, {"pool": "mean", "pool_first": False}),
        ({"class_token": False, "global_pool": "avg"}, {"pool": "mean", "pool_first": True}),
    ],
    ids=str,
)
def test_the_form_of_a_vit_follows_the_file(options: dict, expected: dict) -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=7, **options).eval()
    randomize(model)
    small = replace(find("vit_tiny"), depth=2, image_size=32)
    layout = "timm" if {"registers", "pool"} & expected.keys() else "published"
    loaded = check_equal(small, model.state_dict(), model, layout)
    assert {name: getattr(loaded.config, name) for name in expected} == expected


def test_files_of_dinov2_authors_load_without_their_token_for_masked_patches() -> None:
    config = replace(find("vit_small_dinov2_registers"), depth=1, image_size=56)
    with torch.device("meta"):
        expected = leanformer.build(config)
    tokens = {
        "cls_token": (1, 1, 384),
        "mask_token": (1, 384),
        "register_tokens": (1, 4, 384),
        "pos_embed": (1, 17, 384),
    }
    block = timm.create_model("vit_small_patch14_dinov2", depth=1, img_size=56).state_dict()
    weights = block | {key: torch.randn(shape) for key, shape in tokens.items()}
    loaded = leanformer.load(config, weights=weights)
    assert loaded.config == expected.config
    assert torch.equal(loaded.backbone.register_tokens, weights["register_tokens"])


def test_what_our_vit_does_not_have_is_foreign() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, qk_norm=True)
    with pytest.raises(CheckpointError, match=r"first: blocks\.0\.attn\.q_norm\.weight"):
        leanformer.load(replace(find("vit_tiny"), depth=1, image_size=32), weights=model.state_dict())
