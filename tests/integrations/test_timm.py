"""leanformer's models behave in timm as timm's own do."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

import leanformer
import leanformer.integrations.timm as bridge
from leanformer.errors import CheckpointError, ConfigError, EditError
from leanformer.integrations.timm_model import TimmClassifier, take_indices
from leanformer.models import find
from leanformer.zoo.weights import all_published, layout_of

NANOS = leanformer.list_models("*_nano")
SIZES = [(64, 64), (40, 72)]
every_nano = pytest.mark.parametrize("name", NANOS)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_published(model: leanformer.ImageClassifier, file: Path) -> None:
    key_map = layout_of(model.config).map_for(model.config)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": key_map.to_published(model.state_dict())}, file)


def images(size: tuple[int, int] = (64, 64), count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *size)


def test_every_model_is_registered_unless_timm_has_one_of_its_name():
    script = (
        "import timm\n"
        "before = set(timm.list_models())\n"
        "import leanformer.integrations.timm\n"
        "from leanformer import list_models\n"
        "after = set(timm.list_models())\n"
        "assert before < after == before | set(list_models()), before ^ after\n"
        "for name in before & set(list_models()):\n"
        "    assert 'leanformer' not in timm.models.model_entrypoint(name).__module__, name\n"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", script], check=True)
    assert "flatten_swin_tiny" in timm.list_models("*flatten_swin*")


def test_registering_again_adds_nothing_and_every_listed_name_can_be_imported():
    assert bridge.register_missing() == []
    assert all(hasattr(bridge, name) for name in bridge.__all__)


@every_nano
def test_the_model_computes_what_leanformers_does_from_the_same_weights(name):
    ours = leanformer.build(name).eval()
    theirs = timm.create_model(name).eval()
    theirs.load_state_dict(ours.state_dict())
    x = images((40, 72))
    with torch.inference_mode():
        expected = ours(x)
        features = theirs.forward_features(x)
        assert torch.equal(theirs(x), expected)
        assert torch.equal(theirs.forward_head(features), expected)
        pooled = theirs.forward_head(features, pre_logits=True)
        assert pooled.shape == (2, theirs.head_hidden_size)
        if not isinstance(theirs.get_classifier(), tuple):
            torch.testing.assert_close(theirs.get_classifier()(pooled), expected)


@every_nano
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_features_have_the_channels_and_strides_that_are_stated(name, size):
    model = timm.create_model(name, features_only=True).eval()
    with torch.inference_mode():
        features = model(images(size))
    info = model.feature_info
    assert len(features) == len(info.channels()) == len(info.module_name())
    for feature, channels, stride in zip(features, info.channels(), info.reduction(), strict=True):
        assert feature.shape[:2] == (2, channels)
        for side, whole in zip(feature.shape[2:], size, strict=True):
            assert whole // stride <= side <= -(-whole // stride)
    inner = dict(timm.create_model(name).named_modules())
    assert set(info.module_name()) <= set(inner)


@every_nano
def test_features_are_asked_for_by_place_and_the_rest_is_not_built(name):
    whole = timm.create_model(name, features_only=True).eval()
    some = timm.create_model(name, features_only=True, out_indices=(0, -2)).eval()
    total = len(whole.feature_info)
    assert some.feature_info.out_indices == tuple(sorted({0, total - 2}))
    kept = dict(some.named_parameters())
    assert kept.keys() < dict(whole.named_parameters()).keys()
    some.load_state_dict({key: value for key, value in whole.state_dict().items() if key in some.state_dict()})
    x = images()
    with torch.inference_mode():
        for feature, place in zip(some(x), some.feature_info.out_indices, strict=True):
            assert torch.equal(feature, whole(x)[place])


@every_nano
def test_intermediates_come_as_maps_or_tokens_and_end_in_the_features(name):
    model = timm.create_model(name).eval()
    x, total = images((40, 72)), len(model.feature_info)
    with torch.inference_mode():
        final, maps = model.forward_intermediates(x, norm=True)
        assert torch.equal(final, model.forward_features(x))
        assert len(maps) == total
        tokens = model.forward_intermediates(x, norm=True, output_fmt="NLC", intermediates_only=True)
        for image, flat in zip(maps, tokens, strict=True):
            assert torch.equal(image.flatten(2).transpose(1, 2), flat)
        last = tokens[-1] if final.ndim == 3 else maps[-1]
        assert torch.equal(final[:, final.shape[1] - last.shape[1] :] if final.ndim == 3 else final, last)
        early, first = model.forward_intermediates(x, indices=[0], stop_early=True)
        assert torch.equal(first[0], model.forward_intermediates(x, indices=[0], intermediates_only=True)[0])
        assert early.shape[0] == 2
        both = model.forward_intermediates(x, indices=1, return_prefix_tokens=True, output_dict=True)
        assert set(both) == {"image_features", "image_intermediates", "image_intermediates_prefix"}
        prefix = both["image_intermediates_prefix"][0]
        pairs = model.forward_intermediates(x, indices=1, return_prefix_tokens=True, intermediates_only=True)
        assert torch.equal(pairs[0][1], prefix)
        if model.num_prefix_tokens:
            assert prefix.shape[1] == model.num_prefix_tokens


@every_nano
def test_the_classifier_can_be_exchanged_or_left_out(name):
    model = timm.create_model(name).double().eval()
    x = images().double()
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(3)
        assert model(x).shape == (2, 3) and model.num_classes == model.config.num_classes == 3
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), features)
        model.reset_classifier(0, "")
        assert torch.equal(model(x), model.forward_features(x))
        model.reset_classifier(4, timm.create_model(name).global_pool)
        assert model(x).shape == (2, 4)


def test_arguments_reach_the_model():
    model = timm.create_model(
        "slab_swin_nano", num_classes=3, in_chans=4, img_size=(32, 48), drop_rate=0.5, drop_path_rate=0.3, depths=(1, 2)
    )
    config = model.config
    assert (config.num_classes, config.in_channels, config.image_size) == (3, 4, (32, 48)) and config.depths == (1, 2)
    assert (model.num_classes, model.in_chans, model.head_drop.p) == (3, 4, 0.5)
    assert model.backbone.stages[1].blocks[1].mlp.drop_path.rate == pytest.approx(0.3)
    assert model(torch.randn(2, 4, 32, 48)).shape == (2, 3)


def test_what_timms_data_loading_asks_for_is_what_the_weights_were_measured_with():
    model = timm.create_model("flatten_swin_base_384", img_size=224, depths=(1, 1, 1, 1))
    config = resolve_model_data_config(model)
    assert config["crop_mode"] == "squash" and config["crop_pct"] == 1.0
    assert config["mean"] == (0.485, 0.456, 0.406) and config["interpolation"] == "bicubic"
    assert config["input_size"] == (3, 384, 384)
    assert timm.models.get_model_input_config(model)["input_size"] == (3, 224, 224)
    assert model.default_cfg["origin_url"] == all_published()["flatten_swin_base_384.in1k"].page
    assert resolve_model_data_config(timm.create_model("deit_nano"))["input_size"] == (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        (
            "swin_nano",
            {"output_stride": 8},
            ConfigError,
            "swin_nano takes no argument 'output_stride'.*it takes .*img_s",
        ),
        ("swin_nano", {"image_size": "64"}, ConfigError, "'64' is not of type"),
        ("swin_nano", {"global_pool": "max"}, ConfigError, "swin_nano pools by 'avg'; leave it out"),
        ("deit_nano", {"global_pool": ""}, ConfigError, "global_pool='' is for num_classes=0, got 10"),
        ("swin_nano", {"features_only": True, "feature_cls": "hook"}, ConfigError, "its features by 'getter'"),
        ("swin_nano", {"dynamic_img_size": False}, ConfigError, "takes images of any size"),
        ("swin_nano", {"features_only": True, "out_indices": (0, 5)}, ConfigError, r"\(0, 5\) ask for .*; there are 2"),
        ("swin_nano", {"pretrained": True}, CheckpointError, "swin_nano has no published weights"),
        ("flatten_swin_tiny.in21k", {"pretrained": True}, RuntimeError, "in21k"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_out(name, arguments, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        timm.create_model(name, **arguments)


def test_a_published_file_is_read_by_leanformer_and_adapted(tmp_path):
    ours = leanformer.build("deit_nano")
    file = tmp_path / "published.pth"
    write_published(ours, file)
    take = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
    x = images()
    with torch.inference_mode():
        expected = ours.eval()(x)
        assert torch.equal(timm.create_model("deit_nano", **take).eval()(x), expected)
        fewer = timm.create_model("deit_nano", num_classes=3, in_chans=1, **take).eval()
        assert fewer(x[:, :1]).shape == (2, 3)
        grey = x[:, :1].expand(-1, 3, -1, -1)
        torch.testing.assert_close(fewer.forward_features(x[:, :1]), ours.head.normalize(ours.backbone(grey)[0]))
        features = timm.create_model("deit_nano", features_only=True, **take).eval()(x)
        torch.testing.assert_close(features[-1], ours.backbone.forward_features(x)[-1])


def test_weights_that_timm_was_given_itself_are_loaded_by_timm():
    ours = leanformer.build("swin_nano").eval()
    overlay = {"state_dict": ours.state_dict()}
    model = timm.create_model("swin_nano", pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay).eval()
    assert model.num_classes == 3
    x = images()
    assert torch.equal(model.backbone(x)[0], ours.backbone(x)[0])


def test_published_weights_are_found_where_leanformer_keeps_them(cache):
    ours = leanformer.build("flatten_swin_tiny").eval()
    write_published(ours, all_published()["flatten_swin_tiny.in1k"].remote("flatten_swin_tiny.in1k").place)
    model = timm.create_model("flatten_swin_tiny.in1k", pretrained=True).eval()
    assert cache in Path(model.origin["from"]).parents
    x = images()
    with torch.inference_mode():
        assert torch.equal(model(x), ours(x))


def test_weights_with_a_direct_link_are_listed_as_pretrained():
    listed = set(timm.list_pretrained())
    for name, weights in all_published().items():
        if "leanformer" in timm.models.model_entrypoint(name.partition(".")[0]).__module__:
            assert (name in listed) == (weights.url is not None)


@pytest.mark.usefixtures("cache")
def test_weights_that_must_be_downloaded_by_hand_are_explained_in_timms_words():
    message = r"(?s)download.*LeapLabTHU.*pretrained_cfg_overlay=\{'file': PATH\}"
    with pytest.raises(CheckpointError, match=message):
        timm.create_model("flatten_swin_tiny", pretrained=True)


@every_nano
def test_layer_decay_has_a_group_for_each_block_between_stem_and_classifier(name):
    model = timm.create_model(name)
    groups = timm.models.group_parameters(model, model.group_matcher())
    blocks = sum(len(stage.blocks) for stage in model.backbone.stages)
    assert len(groups) == blocks + 2
    names = {parameter for group in groups.values() for parameter in group}
    assert names == dict(model.named_parameters()).keys()
    assert all(parameter.startswith("backbone.") and ".stages." not in parameter for parameter in groups[0])
    assert all(parameter.startswith("head.") for parameter in groups[len(groups) - 1])
    coarse = timm.models.group_parameters(model, model.group_matcher(coarse=True))
    assert len(coarse) == 2 + (blocks if model.of_one_stage else len(model.backbone.stages))


@every_nano
def test_timms_optimizer_and_averaged_copy_train_the_model(name):
    model = timm.create_model(name, drop_path_rate=0.1, drop_rate=0.1).train()
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    spared = {n: p for n, p in model.named_parameters() if n in model.no_weight_decay() and p.requires_grad}
    undecayed = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    assert {id(parameter) for parameter in spared.values()} <= undecayed
    averaged = ModelEmaV3(model, decay=0.5)
    before = copy.deepcopy(averaged.module.state_dict())
    model(images(count=3)).square().mean().backward()
    optimizer.step()
    averaged.update(model)
    for key, value in averaged.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (before[key] + model.state_dict()[key]) / 2)


@every_nano
def test_checkpointing_gives_the_same_gradients_from_less_memory(name):
    plain = timm.create_model(name).train()
    again = copy.deepcopy(plain)
    again.set_grad_checkpointing()
    kept = []
    x = images(count=3)
    for model in (plain, again):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.nbytes) or t, lambda t: t):
            loss = model(x).square().mean()
        loss.backward()
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)
    again.set_grad_checkpointing(False)
    assert not any(getattr(module, "checkpointing", False) for module in again.modules())


def test_a_bridged_model_is_edited_and_saved_like_any_other(tmp_path):
    model = timm.create_model("slab_swin_nano")
    for module in model.modules():
        if hasattr(module, "scheduled"):
            module.set_scheduled(0.0)
    model.train()(images(count=4))
    leanformer.apply(model.eval(), leanformer.FoldNorms())
    leanformer.save(model, tmp_path / "folded")
    x = images()
    with torch.inference_mode():
        torch.testing.assert_close(leanformer.load(tmp_path / "folded")(x), model(x))
    with pytest.raises(EditError, match=r"edits \(fold_norms\) may have changed the classifier"):
        model.reset_classifier(3)


def test_a_folder_written_for_the_hub_is_read_back(tmp_path):
    model = timm.create_model("slab_swin_nano", num_classes=3, img_size=32).eval()
    timm.models.save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = images((32, 32))
    assert torch.equal(again(x), model(x)) and again.config.image_size == (32, 32)


@pytest.mark.parametrize("name", ["deit_nano", "swin_nano"])
def test_the_classifier_and_its_features_are_exported_as_one_program(name):
    x = images()
    for options in ({}, {"features_only": True}):
        model = timm.create_model(name, **options).eval()
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", leanformer.list_models())
def test_every_registered_model_takes_the_interface(name):
    with torch.device("meta"):
        model = TimmClassifier(find(name), name).eval()
        x = torch.randn(1, 3, *model.config.image_grid)
    scores = model.forward_head(model.forward_features(x))
    assert scores.shape == (1, model.num_classes or model.num_features)
    maps = model.forward_intermediates(x, intermediates_only=True)
    for feature, info in zip(maps, model.feature_info, strict=True):
        sides = [side // info["reduction"] for side in model.config.image_grid]
        assert feature.shape == (1, info["num_chs"], *sides)
    blocks = sum(len(stage.blocks) for stage in model.backbone.stages)
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert len(groups) == 1 + blocks + bool(model.num_classes)


def test_places_of_features_are_counted_from_either_end():
    assert take_indices(4, None) == [0, 1, 2, 3]
    assert take_indices(4, 2) == [2, 3]
    assert take_indices(4, (-1, 0, 3)) == [0, 3]
    for wrong in (0, 5, (), (4,), (-5,)):
        with pytest.raises(ConfigError, match="there are 4"):
            take_indices(4, wrong)
