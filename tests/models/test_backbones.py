"""Backbones say what they cannot take, and offer what dense tasks and optimizers need."""

from __future__ import annotations

import pytest
import torch

import leanformer
from leanformer.errors import ConfigError, DataError
from leanformer.layers.attention import Additive, FocusedLinear, SimplifiedLinear, Softmax
from leanformer.models import find


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "swin_nano",
            {"image_size": 30},
            "not a multiple of the patch size 4 of 'swin'; take 28 or 32",
        ),
        (
            "deit_tiny",
            {"image_size": 8},
            "not a multiple of the patch size 16 of 'vit'; take 16 or 32",
        ),
        ("swin_nano", {"patch_size": 6, "image_size": 60}, r"a power of two from 2 on, got 6"),
        ("swin_nano", {"window_size": 0}, r"window_size must be positive or None for the whole map, got 0 in stage 0"),
        ("swin_nano", {"depths": (-1, 2)}, r"depths must be at least 0, got \(-1, 2\)"),
        ("swin_nano", {"num_heads": (0, 4)}, r"num_heads must be at least 1, got \(0, 4\)"),
        ("deit_nano", {"num_heads": 0}, r"num_heads must be at least 1, got 0"),
        ("deit_nano", {"patch_size": 0}, r"patch_size must be at least 1, got 0"),
        ("deit_nano", {"num_classes": -1}, r"num_classes must be at least 0, got -1"),
        ("deit_nano", {"drop_path": 1.0}, r"drop_path must be in \[0, 1\), got 1.0"),
        ("swin_nano", {"dims": (48, 97)}, r"dim 97 is not divisible by its num_heads 4"),
        (
            "swin_nano",
            {"depths": (2, 2, 2)},
            "dims .* and num_heads .* differ in length",
        ),
        ("swin_nano", {"depths": ()}, r"depths names no stage"),
        ("swin_nano", {"mlp_ratio": ((4.0, -1.0), 4.0)}, r"mlp_ratio must leave a hidden channel, got \(\(4.0, -1"),
        ("l2vit_nano", {"num_heads": (1, 4), "dims": (1, 96)}, r"the first of dims must be at least 2"),
        ("deit_nano", {"num_heads": 3}, r"dim 64 is not divisible by num_heads 3"),
        ("deit_nano", {"spare_class_token": True}, r"spare_class_token is for pool='mean'"),
        ("swin_nano", {"imagesize": 32}, r"'swin' has no field 'imagesize'; did you mean image_size"),
    ],
)
def test_a_value_that_a_backbone_cannot_take_is_named_with_the_way_out(name: str, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        leanformer.build(name, **changes)


@pytest.mark.parametrize("size", [(64, 64), (36, 60)])
def test_features_are_maps_of_the_stated_channels_and_strides(size: tuple[int, int]) -> None:
    model = leanformer.build("slab_swin_nano", image_size=size).eval()
    with torch.inference_mode():
        features = model.backbone.forward_features(torch.randn(2, 3, *size))
    for image, info in zip(features, model.backbone.feature_info, strict=True):
        assert image.shape == (2, info.channels, *(-(-side // info.stride) for side in size))


def test_a_class_token_model_leaves_the_token_out_of_its_map_and_reads_it_in_its_head() -> None:
    model = leanformer.build("deit_nano").eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        tokens, grid = model.backbone(images)
        assert tokens.shape == (2, 1 + 64, 64) and grid == (8, 8)
        assert model.backbone.forward_features(images)[0].shape == (2, 64, 8, 8)
        changed = tokens.clone()
        changed[:, 1:] = 0
        assert torch.equal(model.head(tokens), model.head(changed))


def test_mean_pooling_without_a_class_token_reads_every_place() -> None:
    model = leanformer.build("deit_nano", pool="mean").eval()
    assert model.backbone.class_token is None
    tokens = torch.randn(2, 64, 64)
    with torch.inference_mode():
        assert not torch.equal(model.head(tokens), model.head(tokens * (torch.arange(64) != 5)[None, :, None]))


def test_a_spare_class_token_is_saved_but_neither_trained_nor_read() -> None:
    model = leanformer.build("slab_deit_tiny")
    assert not model.backbone.class_token.requires_grad
    assert "backbone.class_token" in model.state_dict()


@pytest.mark.parametrize("attention", [Softmax(), Softmax(relative_position=True), SimplifiedLinear(), FocusedLinear()])
def test_a_model_runs_at_another_size_than_it_was_built_for(attention: object) -> None:
    model = leanformer.build("deit_nano", attention=attention).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 40, 88)).shape == (1, 10)


def test_windows_shift_in_odd_blocks_only_where_the_attention_takes_a_mask() -> None:
    shifts = {}
    for attention in (Softmax(), SimplifiedLinear()):
        model = leanformer.build("swin_nano", attention=attention)
        shifts[attention.kind] = [block.attn.region.shift for stage in model.backbone.stages for block in stage.blocks]
    assert shifts == {"softmax": [0, 2, 0, 2], "simplified_linear": [0, 0, 0, 0]}


def test_a_window_as_large_as_the_map_does_not_shift() -> None:
    model = leanformer.build("swin_tiny")
    assert [block.attn.region.shift for block in model.backbone.stages[3].blocks] == [0, 0]


def test_drop_path_grows_linearly_and_changes_nothing_in_eval_mode() -> None:
    model = leanformer.build("swin_nano", drop_path=0.3)
    rates = [block.attn.drop_path.rate for stage in model.backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    branch = model.backbone.stages[1].blocks[1].attn.drop_path.train()
    x = torch.ones(4000, 1, 2)
    dropped = branch(x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert branch.eval()(x) is x


def test_weight_decay_leaves_positions_and_tokens_alone() -> None:
    assert leanformer.build("deit_nano").no_weight_decay() == {"backbone.position.table", "backbone.class_token"}
    names = leanformer.build("swin_nano", absolute_position=True).no_weight_decay()
    assert "backbone.position.table" in names and "backbone.stages.0.blocks.0.attn.body.kernel.bias.table" in names
    assert names <= {name for name, _ in leanformer.build("swin_nano", absolute_position=True).named_parameters()}


def test_predict_names_the_most_probable_classes_in_order(tmp_path) -> None:
    from PIL import Image

    model = leanformer.build("slab_swin_nano", num_classes=3)
    model.set_classes(("ant", "bee", "cat"))
    Image.new("L", (90, 41), 128).save(tmp_path / "grey.png")
    best = leanformer.predict(model, tmp_path / "grey.png", top=2)
    assert len(best) == 2 and best[0][1] >= best[1][1]
    assert {name for name, _ in best} <= {"ant", "bee", "cat"}
    with pytest.raises(ConfigError, match="2 class names for a model of 3 classes"):
        model.set_classes(("ant", "bee"))


def test_nano_models_are_nano() -> None:
    for name in leanformer.list_models("*_nano"):
        assert sum(p.numel() for p in leanformer.build(name).parameters()) < 500_000
        assert find(name).num_classes == 10


NANO = leanformer.list_models("*_nano")


@pytest.mark.parametrize("name", NANO)
def test_the_least_image_is_read_and_a_smaller_one_refused(name: str) -> None:
    model = leanformer.build(name).eval()
    least = model.backbone.least_side
    assert model(torch.randn(1, 3, least, 5 * least)).isfinite().all()
    message = rf"images of {least - 1} x 64 pixels are too small .* each side must be at least {least}"
    with pytest.raises(DataError, match=message):
        model(torch.randn(1, 3, least - 1, 64))
    with pytest.raises(DataError, match=message):
        model.backbone.forward_features(torch.randn(1, 3, least - 1, 64))


def test_the_least_image_of_a_pyramid_follows_from_what_its_blocks_reduce() -> None:
    assert leanformer.build("pvt_nano", pool="mean", reductions=(4, 2)).backbone.least_side == 16
    assert leanformer.build("pvt_nano", attention=Additive()).backbone.least_side == 8
    assert leanformer.build("pvt_v2_nano", linear=True).backbone.least_side == 1


@pytest.mark.parametrize("name", NANO)
def test_images_of_other_channels_and_single_images_are_refused(name: str) -> None:
    model = leanformer.build(name).eval()
    with pytest.raises(DataError, match=r"of 3 channels, got \(2, 1, 64, 64\); .* in_channels=1"):
        model(torch.randn(2, 1, 64, 64))
    with pytest.raises(DataError, match=r"got \(3, 64, 64\); one image is images\[None\]"):
        model(torch.randn(3, 64, 64))


@pytest.mark.parametrize("name", NANO)
def test_no_images_give_no_scores(name: str) -> None:
    model = leanformer.build(name).eval()
    assert model(torch.randn(0, 3, 44, 60)).shape == (0, 10)


def test_a_layer_scale_may_be_an_integer() -> None:
    factors = leanformer.build("deit_nano", layer_scale=1).backbone.stages[0].blocks[0].attn.layer_scale.gamma
    assert torch.equal(factors, torch.ones(64))
