"""`leanformer convert`: published files become models, models become published files, and nothing is lost unsaid."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

import leanformer
from leanformer.checkpoints.files import read_weights
from leanformer.zoo.identify import published_shapes

IMAGES = torch.randn(2, 3, 64, 64)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a small DeiT as training code writes it, with an averaged copy."""
    shapes = published_shapes(leanformer.models.find("deit_nano"))
    weights = {key: 0.1 * torch.randn(shape) for key, shape in shapes.items()}
    averaged = {f"module.{key}": 2 * value for key, value in weights.items()}
    path = tmp_path_factory.mktemp("files") / "deit_nano.pth"
    torch.save({"model": weights, "model_ema": averaged, "args": argparse.Namespace(lr=1.0), "epoch": 3}, path)
    return path


@pytest.mark.parametrize("file", ["back.pth", "back.safetensors"])
def test_a_published_file_becomes_a_model_and_comes_back_bit_for_bit(run, published, tmp_path, file):
    out, back = tmp_path / "model", tmp_path / file
    assert "left out: none" in run("convert", published, out, "--model", "deit_nano").out
    assert run("convert", out, back).status == 0
    weights, found = read_weights(published), read_weights(back)
    assert weights.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in weights.items())
    expected = leanformer.load("deit_nano", weights=published)(IMAGES)
    assert torch.equal(leanformer.load(out)(IMAGES), expected)
    assert torch.equal(leanformer.load("deit_nano", weights=back)(IMAGES), expected)


def test_a_written_torch_file_is_a_plain_dict_of_tensors(run, published, tmp_path):
    run("convert", published, tmp_path / "a.pth", "--model", "deit_nano")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert type(content) is dict
    assert all(type(value) is torch.Tensor for value in content.values())


def test_our_names_in_a_file_load_by_the_models_name(run, published, tmp_path):
    file = tmp_path / "ours.safetensors"
    outcome = run("convert", published, file, "--model", "deit_nano", "--to", "ours")
    assert "under our names" in outcome.out
    assert "backbone.stages.0.blocks.0.attn.body.qkv.weight" in read_weights(file)
    expected = leanformer.load("deit_nano", weights=published)(IMAGES)
    assert torch.equal(leanformer.load("deit_nano", weights=file)(IMAGES), expected)


def test_the_averaged_copy_is_taken_on_request(run, published, tmp_path):
    run("convert", published, tmp_path / "a.safetensors", "--model", "deit_nano", "--ema")
    plain, averaged = read_weights(published), read_weights(tmp_path / "a.safetensors")
    assert all(torch.equal(averaged[key], 2 * value) for key, value in plain.items())


def test_positions_are_resized_for_the_size_that_is_asked_for(run, published, tmp_path):
    outcome = run("convert", published, tmp_path / "big", "--model", "deit_nano", "--image-size", 96)
    assert "1 position tables are resized for 96 x 96 images" in outcome.err
    assert leanformer.load(tmp_path / "big").config.image_size == 96


def test_a_class_map_picks_the_classes(run, published, tmp_path):
    (tmp_path / "map.txt").write_text("9\n0\n")
    run("convert", published, tmp_path / "two.pth", "--model", "deit_nano", "--class-map", tmp_path / "map.txt")
    assert torch.equal(read_weights(tmp_path / "two.pth")["head.bias"], read_weights(published)["head.bias"][[9, 0]])


def test_what_a_file_has_besides_is_counted_by_name(run, tmp_path):
    shapes = published_shapes(leanformer.models.find("swin_tiny"))
    weights = {key: torch.zeros(shape) for key, shape in shapes.items()}
    for block in (0, 1):
        weights[f"layers.0.blocks.{block}.attn.relative_position_index"] = torch.zeros(49, 49)  # averaged: no integers
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    torch.save({"state_dict_ema": weights}, tmp_path / "swin.pth")
    outcome = run("convert", tmp_path / "swin.pth", tmp_path / "swin", "--model", "swin_tiny", "--ema")
    assert "left out: 2 x relative_position_index, 1 x attn_mask" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{file}", "{out}"], "whose weights does"),
        (["{file}", "{out}", "--model", "deit_nano", "--to", "timm"], "names of timm go into a file"),
        (["{file}", "{out}.pth", "--model", "deit_nan"], "did you mean deit_nano"),
        (["{file}", "{out}.pt", "--model", "deit_nano"], "files of weights end in .safetensors or .pth"),
        (["nothing.pth", "{out}", "--model", "deit_nano"], "no file nothing.pth"),
        (["{file}", "{out}", "--model", "swin_tiny"], "not a checkpoint of swin_tiny"),
        (["{file}", "{out}", "--model", "deit_nano", "--class-map", "none.txt"], "the class map cannot be read"),
        (["deit_tiny.in22k", "{out}"], "unknown weights 'deit_tiny.in22k'; there are deit_tiny.in1k"),
    ],
)
def test_what_cannot_be_converted_says_why(refused, published, tmp_path, arguments, message):
    assert message in refused("convert", *(a.format(file=published, out=tmp_path / "out") for a in arguments))
    assert list(tmp_path.iterdir()) == []


def test_an_edited_model_has_no_published_form(refused, run, tmp_path):
    model = leanformer.build("slab_deit_tiny", depth=2, image_size=32, num_classes=3)
    for module in model.modules():
        if hasattr(module, "set_scheduled"):
            module.set_scheduled(0.0)
    leanformer.save(model.eval(), tmp_path / "plain")
    assert run("convert", tmp_path / "plain", tmp_path / "plain.pth").status == 0
    leanformer.apply(model, leanformer.FoldNorms())
    leanformer.save(model, tmp_path / "folded")
    message = refused("convert", tmp_path / "folded", tmp_path / "folded.pth")
    assert "has no published form: it was edited (fold_norms); keep it as a run directory" in message
    assert message.count("\n") == 1


def test_a_combination_that_nobody_published_has_no_published_form(refused, tmp_path):
    from leanformer.layers.attention import Additive

    leanformer.save(leanformer.build("deit_nano", attention=Additive()), tmp_path / "mine")
    message = refused("convert", tmp_path / "mine", tmp_path / "mine.pth")
    assert "has no published form: files of this layout have no names for all of its parts; keep it" in message
    assert message.count("\n") == 1


def test_a_target_that_holds_a_run_is_refused_by_its_own_name(refused, published, tmp_path):
    leanformer.save(leanformer.build("deit_nano"), tmp_path / "model")
    message = refused("convert", published, tmp_path / "model", "--model", "deit_nano")
    assert "already holds a run; choose another OUT" in message
