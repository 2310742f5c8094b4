"""A folder that Hugging Face transformers saved is a model by its path."""

from __future__ import annotations

import json

import pytest
import torch

import leanformer
from leanformer.errors import CheckpointError
from leanformer.zoo.hf_folder import read_hf_config

pytestmark = pytest.mark.extras
transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
SWIN = {"image_size": 64, "embed_dim": 12, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
PVT = {"image_size": 64, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 2, 1, 1], "num_attention_heads": [1, 2, 4, 8]}
CASES = {
    "ViTForImageClassification": ("ViTConfig", SMALL | {"intermediate_size": 96, "layer_norm_eps": 1e-6}),
    "SwinForImageClassification": ("SwinConfig", SWIN),
    "PvtV2ForImageClassification": ("PvtV2Config", PVT),
    "SwiftFormerForImageClassification": ("SwiftFormerConfig", {"depths": [2, 1, 1, 1], "embed_dims": [8, 16, 24, 32]}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_saved_folder_gives_the_outputs_of_transformers(name, tmp_path):
    kind, options = CASES[name]
    theirs = getattr(transformers, name)(getattr(transformers, kind)(num_labels=5, **options)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    ours = leanformer.load(tmp_path)
    images = torch.randn(2, 3, *ours.config.image_grid)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images).logits, rtol=1e-4, atol=1e-5)


def test_its_preprocessing_comes_along(tmp_path):
    model = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=5, **SMALL, intermediate_size=64))
    model.save_pretrained(tmp_path)
    record = tmp_path / "preprocessor_config.json"
    usual = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    record.write_text(json.dumps({**usual, "size": {"height": 32, "width": 32}, "resample": 2}))
    assert leanformer.load(tmp_path).preprocess == leanformer.Preprocess(
        image_size=(32, 32), crop=1.0, interpolation="bilinear", fit="squash", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    cropped = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
    record.write_text(json.dumps({**usual, **cropped}))
    found = leanformer.load(tmp_path).preprocess
    assert (found.crop, found.fit, found.interpolation) == (0.8, "shorter", "bicubic")
    record.write_text("{}")
    with pytest.raises(CheckpointError, match="its preprocessing cannot be read"):
        leanformer.load(tmp_path)


def test_a_config_that_lacks_a_field_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin", "depths": [2, 2]}))
    with pytest.raises(CheckpointError, match=r"config\.json: its model cannot be read \(KeyError"):
        read_hf_config(tmp_path / "config.json")


def test_an_activation_that_we_do_not_compute_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **SMALL, "hidden_act": "relu"}))
    with pytest.raises(CheckpointError, match="hidden_act is 'relu'; leanformer's models have 'gelu'"):
        read_hf_config(tmp_path / "config.json")
