"""Backbones for dense tasks equal the published ones: maps, gradients, frozen statistics in training; and what of a
detector's or a classifier's file they take."""

from __future__ import annotations

import logging
from dataclasses import replace

import golden
import numpy as np
import pytest
import torch
from published import DEAD, HERE, close, weights_of
from torch import nn

import leanformer
from leanformer.bench import count_cost
from leanformer.errors import CheckpointError, ConfigError
from leanformer.layers.norm import BatchNorm, LayerNorm, Norms
from leanformer.models import find
from leanformer.models.dense import PyramidFeatures
from leanformer.zoo.dense import build_pyramid, load_pyramid
from leanformer.zoo.layouts.dense import dense_map

SLAB, L2VIT, SWIFTFORMER = (
    "slab_detection/gain0.6",
    "l2vit/detection_backbone_Tiny",
    "swiftformer/SwiftFormer_XS_fork_feat",
)
BATCH = BatchNorm()
LAST_THREE = {"norms": (None, BATCH, BATCH, BATCH)}
BACKBONES = {
    f"{SLAB}/slab_swin_tiny": ("slab_swin_tiny_dense", {}),
    f"{SLAB}/swin_tiny_prepbn": ("swin_tiny_prepbn_dense", {}),
    f"{SLAB}/pvt_tiny_prepbn": ("pvt_tiny_prepbn", {}),
    "slab_detection/pvt_tiny_prepbn": ("pvt_tiny_prepbn", {}),
    L2VIT: ("l2vit_tiny", {}),
    f"{L2VIT}_out123": ("l2vit_tiny", {"levels": (1, 2, 3)}),
    SWIFTFORMER: ("swiftformer_xs", {}),
    f"{SWIFTFORMER}_last3": ("swiftformer_xs", LAST_THREE),
}


SLOW = {f"{SLAB}/swin_tiny_prepbn", "slab_detection/pvt_tiny_prepbn", L2VIT, f"{SWIFTFORMER}_last3"}
PATHS = [pytest.param(path, marks=pytest.mark.slow if path in SLOW else ()) for path in BACKBONES]


def packed(maps: list[torch.Tensor], statistics: bool) -> torch.Tensor:
    """Every fourth place of each map; then, in SLAB's files, mean and deviation of each."""
    places = [image[..., ::4, ::4].flatten() for image in maps]
    if statistics:
        places += [torch.stack((image.mean(), image.std(unbiased=False))) for image in maps]
    return torch.cat(places)


def load_golden(path: str) -> tuple[PyramidFeatures, dict, dict[str, np.ndarray]]:
    meta, arrays = golden.load(HERE / f"{path}.npz")
    name, options = BACKBONES[path]
    return load_pyramid(name, weights_of(meta), **options), meta, arrays


def image_of(shape: list[int]) -> torch.Tensor:
    return torch.from_numpy(golden.example_input(shape))


@pytest.mark.parametrize("path", PATHS)
def test_published_weights_give_the_published_maps_and_gradients(path: str) -> None:
    pyramid, meta, arrays = load_golden(path)
    assert sum(p.numel() for p in pyramid.parameters()) == meta["num_params"]
    maps = pyramid(image_of(meta["input_shape"]))
    for image, info in zip(maps, pyramid.feature_info, strict=True):
        assert image.shape == (1, info.channels, 256 // info.stride, 320 // info.stride)
    if "extra_map_stats" in arrays:
        close(torch.stack([torch.stack((image.mean(), image.std())) for image in maps]), arrays["extra_map_stats"])
    output = packed(maps, statistics="output_packing" in meta)
    close(output, arrays["output"])
    output.square().mean().backward()
    key_map = dense_map(find(BACKBONES[path][0]), {})
    grads = key_map.to_published({name: p.grad for name, p in pyramid.named_parameters() if p.grad is not None})
    norms = [grads[key].norm().item() if key in grads else float("nan") for key in meta["params"]]
    np.testing.assert_allclose(
        norms, arrays["grad_norms"], rtol=1e-3, atol=DEAD * float(np.nanmax(arrays["grad_norms"]))
    )


@pytest.mark.parametrize("path", PATHS)
def test_weights_go_back_under_their_published_names_unchanged(path: str) -> None:
    pyramid, meta, _ = load_golden(path)
    back = dense_map(find(BACKBONES[path][0]), {}).to_published(pyramid.state_dict())
    weights = weights_of(meta)
    assert set(weights) <= set(back)
    assert all(torch.equal(back[key], value) for key, value in weights.items())


@pytest.mark.parametrize("name", ["slab_swin_tiny", "swin_tiny_prepbn"])
def test_odd_images_are_padded_as_published(name: str) -> None:
    pyramid, _, arrays = load_golden(f"{SLAB}/{name}")
    with torch.inference_mode():
        maps = pyramid(image_of([1, 3, 225, 301]))
    assert [tuple(image.shape[2:]) for image in maps] == [(57, 76), (29, 38), (15, 19), (8, 10)]
    close(packed(maps, statistics=True), arrays["extra_output_odd"])


@pytest.mark.parametrize("name", ["slab_swin_tiny", pytest.param("swin_tiny_prepbn", marks=pytest.mark.slow)])
def test_training_blends_the_norms_and_leaves_the_batch_statistics_alone(name: str) -> None:
    meta, arrays = golden.load(HERE / f"{SLAB}/{name}.npz")
    weights = weights_of(meta)
    pyramid = load_pyramid(replace(find(f"{name}_dense"), drop_path=0.0), weights).train()
    before = {key: value.clone() for key, value in pyramid.state_dict().items() if "running" in key}
    images = image_of([2, 3, 128, 160])
    for step, share in enumerate((1.0, 0.75, 0.5, 0.25, 0.0, 0.0)):
        for module in pyramid.modules():
            if hasattr(module, "scheduled"):
                module.set_scheduled(share)
        with torch.no_grad():
            close(packed(pyramid(images), statistics=True), arrays["extra_train_outputs"][step])
    assert before and all(torch.equal(pyramid.state_dict()[key], value) for key, value in before.items())


def test_a_position_table_that_is_a_map_is_resized_to_each_image() -> None:
    meta, arrays = golden.load(HERE / f"{SLAB}/swin_tiny_prepbn.npz")
    config = replace(find("swin_tiny_prepbn_dense"), absolute_position=True)
    table = torch.from_numpy(golden.fill("absolute_pos_embed", (1, 96, 56, 56), meta["salt"], meta["gain"]))
    weights = {**weights_of(meta), "absolute_pos_embed": table}
    pyramid = load_pyramid(config, weights)
    with torch.inference_mode():
        close(packed(pyramid(image_of(meta["input_shape"])), statistics=True), arrays["extra_output_ape"])
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    back = dense_map(config, shapes).to_published(pyramid.state_dict())
    assert torch.equal(back["absolute_pos_embed"], table)


def test_a_classifier_with_other_windows_gives_its_tables_resized() -> None:
    meta, arrays = golden.load(HERE / f"{SLAB}/swin_tiny_prepbn.npz")

    def checkpoint(key: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(golden.fill(f"ckpt.{key}", shape, meta["salt"]))

    weights = weights_of(meta)
    for key in [key for key in weights if key.endswith("relative_position_bias_table")]:
        weights[key] = checkpoint(key, (23 * 23, weights[key].shape[1]))
    weights["absolute_pos_embed"] = checkpoint("absolute_pos_embed", (1, 3136, 96))
    pyramid = load_pyramid(replace(find("swin_tiny_prepbn_dense"), absolute_position=True), weights)
    back = dense_map(find("swin_tiny_prepbn_dense"), {"absolute_pos_embed": (1, 96, 56, 56)}).to_published(
        pyramid.state_dict()
    )
    close(back["layers.0.blocks.0.attn.relative_position_bias_table"], arrays["extra_ckpt_rpb_l0b0"])
    close(back["absolute_pos_embed"][:, ::16, ::4, ::4], arrays["extra_ckpt_ape"])


def test_a_detector_gives_its_backbone_on_request_alone(tmp_path) -> None:
    meta, _ = golden.load(HERE / f"{L2VIT}.npz")
    weights = {f"backbone.{key}": value for key, value in weights_of(meta).items()}
    expected = load_pyramid("l2vit_tiny", weights).state_dict()
    weights["neck.lateral_convs.0.conv.weight"] = torch.zeros(256, 96, 1, 1)
    torch.save({"state_dict": weights, "meta": {"epoch": 12}}, tmp_path / "epoch_12.pth")
    with pytest.raises(CheckpointError, match=r"besides a backbone it holds neck; backbone_only=True"):
        load_pyramid("l2vit_tiny", tmp_path / "epoch_12.pth")
    found = load_pyramid("l2vit_tiny", tmp_path / "epoch_12.pth", backbone_only=True).state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_the_counters_of_dense_norms_load_and_say_how_far_training_came() -> None:
    meta, _ = golden.load(HERE / f"{SLAB}/swin_tiny_prepbn.npz")
    weights = weights_of(meta)
    norms = [key.removesuffix(".norm2.alpha") for key in weights if key.endswith(".norm2.alpha")]
    for norm in norms:
        weights |= {f"{norm}.iter": torch.tensor(75_000), f"{norm}.total_step": torch.tensor(300_000)}
    pyramid = load_pyramid("swin_tiny_prepbn_dense", weights)
    assert pyramid.backbone.stem.norm.progress.item() == 0.25


def test_a_classifier_leaves_the_norms_of_the_levels_untrained_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    classifier = leanformer.build("l2vit_nano")
    weights = (
        leanformer.zoo.weights.layout_of(classifier.config)
        .map_for(classifier.config)
        .to_published(classifier.state_dict())
    )
    with caplog.at_level(logging.WARNING):
        pyramid = load_pyramid("l2vit_nano", weights)
    assert "is a classifier: the norms of 2 levels are untrained" in caplog.text
    assert torch.equal(pyramid.backbone.stem.convs[0].weight, classifier.backbone.stem.convs[0].weight)
    assert torch.equal(pyramid.norms["1"].weight, torch.ones(96))


def test_a_dense_file_without_the_norm_of_a_level_is_refused() -> None:
    meta, _ = golden.load(HERE / f"{L2VIT}_out123.npz")
    with pytest.raises(CheckpointError, match=r"2 nothing fills:\n    norms.0.weight \(96,\)"):
        load_pyramid("l2vit_tiny", weights_of(meta))


def test_levels_and_norms_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match=r"levels are stages from 0 to 1 in order, each once, got \(1, 2\)"):
        build_pyramid("l2vit_nano", levels=(1, 2))
    with pytest.raises(ConfigError, match="1 norms for 2 levels"):
        build_pyramid("l2vit_nano", norms=(LayerNorm(),))


@pytest.mark.parametrize(
    ("name", "num_params", "giga_macs", "giga_macs_large"),
    [
        ("slab_swin_tiny_dense", 28_447_412, 4.48, 96.9),
        ("slab_swin_small_dense", 49_783_772, 8.73, 189.0),
        ("swin_tiny_prepbn_dense", 27_543_958, 4.49, 95.6),
        ("swin_small_prepbn_dense", 48_880_318, 8.74, 187.6),
        ("pvt_tiny_prepbn", 12_726_554, 1.93, 69.5),
        ("pvt_small_prepbn", 23_994_801, 3.81, 134.1),
    ],
)
def test_backbones_have_the_published_parameters_and_multiply_accumulates(
    name: str, num_params: int, giga_macs: float, giga_macs_large: float
) -> None:
    with torch.device("meta"):
        pyramid = build_pyramid(name)
    small, large = count_cost(pyramid, 224), count_cost(pyramid, (800, 1280))
    assert small.parameters == num_params
    assert small.macs / 1e9 == pytest.approx(giga_macs, rel=5e-3)
    assert large.macs / 1e9 == pytest.approx(giga_macs_large, rel=5e-3)


@pytest.mark.parametrize(
    ("name", "num_params"), [("l2vit_tiny", 27_829_125), ("l2vit_small", 49_431_501), ("l2vit_base", 87_553_980)]
)
def test_l2vit_backbones_have_the_published_number_of_parameters(name: str, num_params: int) -> None:
    with torch.device("meta"):
        pyramid = build_pyramid(name)
    assert sum(p.numel() for p in pyramid.parameters()) == num_params


@pytest.mark.parametrize(
    ("path", "name"),
    [("slab/gain0.6/slab_swin_t", "slab_swin_tiny_dense"), ("slab/gain0.6/swin_t_prepbn", "swin_tiny_prepbn_dense")],
)
def test_slab_trunks_start_from_the_published_classifiers_whose_norms_may_be_bare(path: str, name: str) -> None:
    meta, _ = golden.load(HERE / f"{path}.npz")
    weights = weights_of(meta)
    pyramid = load_pyramid(name, weights)
    assert torch.equal(pyramid.backbone.stem.proj.weight, weights["patch_embed.proj.weight"])
    rep = getattr(pyramid.backbone.stem.norm, "rep", pyramid.backbone.stem.norm)
    key = "patch_embed.norm.norm2" if "patch_embed.norm.norm2.alpha" in weights else "patch_embed.norm"
    assert torch.equal(rep.bn.running_var, weights[f"{key}.bn.running_var"])


def test_norms_that_end_the_stages_of_a_backbone_stay_as_fixed_affine_maps() -> None:
    config = replace(find("pvt_v2_nano"), norms=Norms(block=BatchNorm()))
    pyramid = build_pyramid(config).eval()
    for norm in (module for module in pyramid.modules() if isinstance(module, nn.BatchNorm1d)):
        norm.running_mean.normal_()
    images = image_of([1, 3, 64, 64])
    with torch.inference_mode():
        before = pyramid(images)
        report = leanformer.FoldNorms().apply(pyramid)
        assert report.details["frozen"] == [f"backbone.stages.{stage}.norm" for stage in (2, 0, 1)]
        for image, expected in zip(pyramid(images), before, strict=True):
            close(image, expected.numpy())


def test_folding_changes_no_map_of_shifted_windows_that_pad() -> None:
    pyramid, _, _ = load_golden(f"{SLAB}/slab_swin_tiny")
    images = image_of([1, 3, 100, 132])
    with torch.inference_mode():
        before = pyramid(images)
        report = leanformer.FoldNorms().apply(pyramid)
        assert len(report.details["folded"]) == 28 and not report.details["frozen"]
        assert report.details["left"] == [f"norms.{level}" for level in range(4)]
        for image, expected in zip(pyramid(images), before, strict=True):
            close(image, expected.numpy())
