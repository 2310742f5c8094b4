"""timm names give our models, with the Hub's weights from a cache, a folder or a file, and equal outputs."""

from __future__ import annotations

import io
import json
from email.message import Message
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import leanformer
from leanformer.checkpoints import fetch
from leanformer.checkpoints.files import read_weights
from leanformer.cli import main
from leanformer.errors import CheckpointError, ConfigError
from leanformer.zoo import resolve
from leanformer.zoo.timm_hub import TIMM_MODELS, describe_timm, find_timm, full_timm_name

NAME = "timm/deit_tiny_patch16_224.fb_in1k"
DESCRIPTION = {
    "architecture": "deit_tiny_patch16_224",
    "num_classes": 1000,
    "pretrained_cfg": {
        "tag": "fb_in1k",
        "input_size": [3, 224, 224],
        "interpolation": "bilinear",
        "crop_pct": 0.95,
        "crop_mode": "squash",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "license": "apache-2.0",
    },
}
PREPROCESS = leanformer.Preprocess(
    crop=0.95, interpolation="bilinear", fit="squash", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)
)


@pytest.fixture(scope="module")
def oracle():
    """timm's own model with random weights."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    return timm.create_model("deit_tiny_patch16_224", pretrained=False).eval()


@pytest.fixture(autouse=True)
def _no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def fill(folder: Path, oracle: torch.nn.Module) -> Path:
    """A folder as the Hub has it."""
    folder.mkdir(parents=True)
    save_file(oracle.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(DESCRIPTION))
    return folder


def assert_is(model: leanformer.ImageClassifier, oracle: torch.nn.Module) -> None:
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(model(images), oracle(images), rtol=1e-5, atol=1e-5)
    assert model.preprocess == PREPROCESS


def test_a_folder_from_the_hub_is_a_model(oracle, tmp_path):
    model = leanformer.load(fill(tmp_path / "downloaded", oracle))
    assert_is(model, oracle)
    assert (model.name, model.origin["license"]) == (NAME, "apache-2.0")


def test_the_hubs_own_cache_is_read(oracle, tmp_path):
    fill(tmp_path / "hub/models--timm--deit_tiny_patch16_224.fb_in1k/snapshots/0123abcd", oracle)
    assert_is(leanformer.load("timm/deit_tiny_patch16_224"), oracle)


def test_a_local_file_is_taken_with_the_description_beside_it(oracle, tmp_path):
    folder = fill(tmp_path / "downloaded", oracle)
    assert_is(leanformer.load(NAME, weights=folder / "model.safetensors"), oracle)
    (folder / "config.json").unlink()
    usual = leanformer.load(NAME, weights=folder / "model.safetensors")
    assert usual.preprocess == leanformer.Preprocess(crop=0.9)


def test_the_hub_is_asked_for_both_files_over_the_network(oracle, tmp_path, monkeypatch):
    folder = fill(tmp_path / "server", oracle)
    asked = []

    def answer(url):
        asked.append(url)
        body = io.BytesIO((folder / url.rpartition("/")[2]).read_bytes())
        body.headers = Message()  # type: ignore[attr-defined]
        return body

    monkeypatch.delenv("LEANFORMER_OFFLINE")
    monkeypatch.setattr(fetch, "open_url", answer)
    assert_is(leanformer.load("timm/deit_tiny_patch16_224"), oracle)
    hub = "https://huggingface.co/timm/deit_tiny_patch16_224.fb_in1k/resolve/main"
    assert asked == [f"{hub}/model.safetensors", f"{hub}/config.json"]


def test_offline_the_file_to_get_is_named(tmp_path):
    with pytest.raises(CheckpointError) as error:
        leanformer.load("timm/swin_tiny_patch4_window7_224")
    full = "swin_tiny_patch4_window7_224.ms_in1k"
    page = f"https://huggingface.co/timm/{full}"
    link = f"{page}/resolve/main/model.safetensors (its page is {page})"
    assert f"download model.safetensors from {link} and put it at" in str(error.value)
    assert str(tmp_path / "cache/timm" / full / "model.safetensors") in str(error.value)


def test_a_model_loaded_so_is_like_any_other(oracle, tmp_path, capsys):
    model = leanformer.load(fill(tmp_path / "downloaded", oracle))
    leanformer.save(model, tmp_path / "mine")
    again = leanformer.load(tmp_path / "mine")
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(again(images), model(images))
    assert main(["info", str(tmp_path / "mine")]) == 0
    assert f"{NAME}: vit, 224 x 224 images" in capsys.readouterr().out


def test_info_and_build_take_timm_names(capsys):
    assert main(["info", "timm/deit_tiny_patch16_224"]) == 0
    assert "5,717,416 parameters" in capsys.readouterr().out


def test_a_model_is_written_for_timm_to_read(oracle, tmp_path, capsys):
    folder = fill(tmp_path / "downloaded", oracle)
    assert main(["convert", str(folder), str(tmp_path / "back.safetensors"), "--to", "timm"]) == 0
    oracle.load_state_dict(read_weights(tmp_path / "back.safetensors"), strict=True)
    assert "left out: none" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(TIMM_MODELS))
def test_every_known_name_has_the_parameters_images_and_usual_weights_of_timm(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model(name, pretrained=False)
        config = resolve.find_config(f"timm/{name}")
        ours = leanformer.ImageClassifier(config)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    described = theirs.pretrained_cfg
    usual = find_timm(name).preprocess()
    assert config.image_grid == usual.image_size == described["input_size"][1:]
    assert (usual.crop, usual.mean, usual.std) == tuple(described[key] for key in ("crop_pct", "mean", "std"))
    assert (usual.interpolation, described["crop_mode"]) == ("bicubic", "center")
    assert full_timm_name(name) == f"{name}.{described['tag']}"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timm/swin_tiny_patch4_window7_22", "did you mean swin_tiny_patch4_window7_224"),
        ("timm/xyz", "those of deit, vit, swin, pvt_v2 and swiftformer are known"),
    ],
)
def test_an_unknown_timm_name_is_answered_with_the_nearest(name, hint):
    with pytest.raises(ConfigError, match=f"unknown timm model '{name}'; {hint}"):
        leanformer.load(name)


@pytest.mark.parametrize("described", [{"mean": [1, 2]}, {"crop_pct": 7}, {"input_size": [3]}, {"std": "abc"}])
def test_a_description_that_makes_no_sense_is_named(described, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architecture": "deit_tiny_patch16_224", "pretrained_cfg": described}))
    with pytest.raises(CheckpointError, match=r"config\.json: its preprocessing cannot be read"):
        describe_timm(NAME, path)


def test_another_file_of_that_name_beside_the_weights_is_no_description(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"crop_pct": 0.1, "epochs": 3}))
    assert describe_timm(NAME, path).preprocess.crop == 0.9
