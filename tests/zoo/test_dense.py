"""Where a backbone for dense tasks comes from: a run, weights by name, files of classifiers in any layout."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import leanformer
from leanformer.errors import CheckpointError, ConfigError
from leanformer.models import BackboneConfig, ImageClassifier, find
from leanformer.models.dense import PyramidFeatures
from leanformer.models.swin import Swin
from leanformer.zoo.convert import to_layout
from leanformer.zoo.dense import load_pyramid

IMAGES = torch.randn(1, 3, 64, 64)
UNTRAINED = "is a classifier: the norms of"


SWIN = Swin(image_size=64, dims=(12, 24), depths=(2, 2), num_heads=(1, 2), window_size=4, num_classes=5)


def randomized(model: str | BackboneConfig, **changes: object) -> ImageClassifier:
    """A small classifier of which no two tensors are alike."""
    model = leanformer.build(model, **changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def same_backbone(pyramid: PyramidFeatures, model: ImageClassifier) -> bool:
    found, expected = pyramid.backbone.state_dict(), model.backbone.state_dict()
    assert not pyramid.training
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("given", [str, Path])
def test_the_backbone_of_a_run_becomes_a_pyramid_by_its_folder(given, tmp_path, caplog):
    model = randomized("swin_nano")
    leanformer.save(model, tmp_path / "run")
    pyramid = load_pyramid(given(tmp_path / "run"), levels=(1,))
    assert same_backbone(pyramid, model)
    assert f"{tmp_path / 'run'} {UNTRAINED} 1 levels are untrained" in caplog.text
    assert torch.equal(load_pyramid("swin_nano", given(tmp_path / "run"), levels=(1,))(IMAGES)[0], pyramid(IMAGES)[0])
    assert torch.equal(load_pyramid(model.config, given(tmp_path / "run"), levels=(1,))(IMAGES)[0], pyramid(IMAGES)[0])


def test_an_edited_run_keeps_its_edits_and_fits_no_name(tmp_path):
    from leanformer.layers.norm import Norms, RepBN

    model = randomized("swin_nano", norms=Norms(block=RepBN()))
    leanformer.apply(model, leanformer.FoldNorms())
    leanformer.save(model, tmp_path / "lean")
    assert same_backbone(load_pyramid(tmp_path / "lean"), model)
    with pytest.raises(CheckpointError, match=r"was edited \(fold_norms\) and fits no config; give it as the model"):
        load_pyramid("swin_nano", tmp_path / "lean")


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        (SWIN, "published"),
        (SWIN, "timm"),
        (SWIN, "hugging_face"),
        ("swin_nano", "ours"),
        ("pvt_v2_nano", "timm"),
        ("pvt_v2_nano", "hugging_face"),
        ("deit_nano", "published"),
        ("deit_nano", "hugging_face"),
        ("l2vit_nano", "ours"),
        ("cswin_nano", "published"),
    ],
)
def test_classifiers_fill_it_in_every_layout(config, layout, caplog):
    model = randomized(config)
    with caplog.at_level(logging.WARNING):
        pyramid = load_pyramid(config, to_layout(model, layout))
    assert same_backbone(pyramid, model)
    assert (UNTRAINED in caplog.text) == (len(pyramid.norms) > 0)


def test_a_saved_pyramid_comes_back_with_the_norms_of_its_levels():
    pyramid = load_pyramid("swin_nano", to_layout(randomized("swin_nano"), "ours"))
    with torch.no_grad():
        pyramid.norms["0"].weight.fill_(2.0)
    again = load_pyramid("swin_nano", pyramid.state_dict())
    assert all(torch.equal(first, second) for first, second in zip(pyramid(IMAGES), again(IMAGES), strict=True))


def test_a_timm_name_is_a_model_too():
    config = replace(find("pvt_v2_b0"), num_classes=3)
    model = ImageClassifier(config)
    assert same_backbone(load_pyramid("timm/pvt_v2_b0", to_layout(model, "timm")), model)


def test_published_weights_are_found_by_name_or_the_message_says_what_fills_it():
    with pytest.raises(CheckpointError, match=r"l2vit_tiny"):  # there is no network in tests, but it was asked for
        load_pyramid("l2vit_tiny")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not in the cache, .*timm/swin_tiny_patch4"):
        load_pyramid("timm/swin_tiny_patch4_window7_224")
    message = r"slab_swin_tiny_dense has no published weights of its own; .* weights='slab_swin_tiny\.in1k', or give"
    with pytest.raises(CheckpointError, match=message):
        load_pyramid("slab_swin_tiny_dense")
    with pytest.raises(CheckpointError, match=r"swin_nano has no published weights of its own; give a file or a run"):
        load_pyramid("swin_nano")


def test_files_of_no_known_layout_are_told_which_there_are():
    with pytest.raises(CheckpointError, match=r"classifiers in these layouts: published, timm, .*ours"):
        load_pyramid("swin_nano", {"trunk.0.weight": torch.zeros(3)})


def test_what_does_not_go_together_is_refused(tmp_path):
    leanformer.save(leanformer.build("swin_nano"), tmp_path / "run")
    with pytest.raises(ConfigError, match="weights of its own"):
        load_pyramid(str(tmp_path / "run"), weights={})
    with pytest.raises(ConfigError, match="a run directory holds one copy"):
        load_pyramid(tmp_path / "run", ema=True)
    with pytest.raises(ConfigError, match="exported file"):
        load_pyramid("model.onnx")
    with pytest.raises(CheckpointError, match="no folder"):
        load_pyramid("runs/none")
