"""A model's name, a timm name, a folder and a file mean the same to the library, the command line and training."""

from __future__ import annotations

import hashlib
import io
import re
from email.message import Message
from pathlib import Path

import pytest
import torch

import leanformer
from leanformer.checkpoints import fetch
from leanformer.cli import main
from leanformer.data.synthetic import shapes as images_of_shapes
from leanformer.errors import CheckpointError, ConfigError
from leanformer.training import ModelSpec
from leanformer.training.build import build_model
from leanformer.zoo import resolve
from leanformer.zoo.identify import published_shapes
from leanformer.zoo.weights import Weights, all_published, publish, published

IMAGES = torch.randn(2, 3, 64, 64)


def file_of(name: str, **changes: object) -> dict[str, torch.Tensor]:
    """What a published file of a model holds, with random weights."""
    config = leanformer.build(name, **changes).config
    return {key: torch.randn(shape) for key, shape in published_shapes(config).items()}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANFORMER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return file_of("deit_nano")


@pytest.fixture
def online(weights, monkeypatch):
    """`deit_nano.test` has a direct link, and a server that answers it once; gives what was asked for."""
    buffer = io.BytesIO()
    torch.save({"model": weights}, buffer)
    asked: list[str] = []

    def answer(url: str) -> io.BytesIO:
        asked.append(url)
        body = io.BytesIO(buffer.getvalue())
        body.headers = Message()  # type: ignore[attr-defined]
        return body

    monkeypatch.delenv("LEANFORMER_OFFLINE")
    monkeypatch.setattr(fetch, "open_url", answer)
    monkeypatch.setattr("leanformer.zoo.weights._WEIGHTS", dict(all_published()))
    record = Weights(
        page="https://a.org",
        file="deit_nano.pth",
        url="https://a.org/deit_nano.pth",
        sha256=hashlib.sha256(buffer.getvalue()).hexdigest()[:8],
        license="MIT",
        preprocess=leanformer.Preprocess(crop=0.9),
    )
    publish("deit_nano.test", record)
    return asked


@pytest.mark.parametrize("name", ["deit_nano", "deit_nano.test"])
def test_published_weights_are_fetched_once_by_name(name, online, weights):
    model = leanformer.load(name)
    assert torch.equal(model.head.linear.weight, weights["head.weight"])
    assert model.preprocess == leanformer.Preprocess(image_size=(64, 64), crop=0.9)
    assert model.origin["license"] == "MIT"
    leanformer.load(name)
    assert online == ["https://a.org/deit_nano.pth"]


def test_the_command_line_fetches_too(online, tmp_path, capsys):
    images_of_shapes(num_images=1).image(0).save(tmp_path / "a.jpg")
    assert main(["predict", "deit_nano.test", str(tmp_path / "a.jpg")]) == 0
    assert "a.jpg: " in capsys.readouterr().out
    assert len(online) == 1


def test_training_starts_from_published_weights_by_name(online, weights):
    model = build_model(ModelSpec(name="deit_nano", weights="deit_nano.test"), classes=("a", "b"))
    assert torch.equal(model.backbone.class_token, weights["cls_token"])
    assert model.preprocess.crop == 0.9


def test_a_file_without_a_link_is_found_where_the_error_says_to_put_it(weights):
    with pytest.raises(CheckpointError) as error:
        leanformer.load("flatten_swin_tiny.in1k")
    text = str(error.value)
    assert "download the file from https://github.com/LeapLabTHU/FLatten-Transformer" in text
    found = re.search(r"put it at (\S+), where the next call finds it", text)
    assert found is not None
    place = Path(found.group(1))
    place.parent.mkdir(parents=True)
    shapes = published_shapes(leanformer.models.find("flatten_swin_tiny"))
    torch.save({"model": {key: torch.zeros(shape) for key, shape in shapes.items()}}, place)
    assert leanformer.load("flatten_swin_tiny.in1k").preprocess.fit == "squash"


def test_a_config_alone_has_no_published_weights():
    with pytest.raises(CheckpointError, match="a config has no published weights; give a file"):
        leanformer.load(leanformer.models.find("deit_tiny"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("deit_nano", "name"),
        ("deit_nano.in1k", "name"),
        ("timm/deit_tiny_patch16_224", "timm"),
        ("runs/mine", "folder"),
        ("./deit_nano", "folder"),
        ("model.onnx", "exported"),
        ("runs/model.onnx", "exported"),
    ],
)
def test_what_a_text_means(text, kind):
    assert resolve.kind_of(text) == kind
    assert resolve.is_stored(text) == (kind in ("folder", "exported"))


def test_a_folder_wins_over_a_name_unless_weights_are_given_for_the_name(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    for name in ("deit_nano", "timm/deit_tiny_patch16_224"):
        Path(name).mkdir(parents=True)
        assert resolve.kind_of(name) == "folder"
        assert resolve.kind_of(name, with_weights=True) != "folder"
    leanformer.save(leanformer.build("deit_nano"), "deit_nano")
    assert not torch.equal(leanformer.load("deit_nano").head.linear.weight, weights["head.weight"])
    named = leanformer.load("deit_nano", weights=weights)
    assert torch.equal(named.head.linear.weight, weights["head.weight"])


def test_our_own_names_load_like_published_ones(weights, tmp_path):
    expected = leanformer.load("deit_nano", weights=weights)
    again = leanformer.load("deit_nano", weights=expected.state_dict())
    assert torch.equal(again(IMAGES), expected(IMAGES))


@pytest.mark.parametrize("name", sorted(all_published()))
def test_every_entry_of_the_weights_table_makes_sense(name):
    record = published(name)
    assert record is not None and record.page.startswith("https://")
    assert record.preprocess.image_size == leanformer.models.find(name).image_grid
    if record.url is not None:
        assert record.url.startswith("https://") and record.file is not None and record.url.endswith(f"/{record.file}")
    assert record.sha256 is None or re.fullmatch(r"[0-9a-f]{8,64}", record.sha256)
    assert all(0 < value <= 100 for value in record.reported.values())
    assert record.remote(name).place.parent.name == name


def test_an_unknown_tag_is_refused_before_anything_is_fetched():
    with pytest.raises(ConfigError, match=r"unknown weights 'deit_tiny\.in21k'; there are deit_tiny\.in1k"):
        leanformer.load("deit_tiny.in21k")
