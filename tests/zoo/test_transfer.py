"""Published weights at other sizes and for other classes: resized, picked or new, and always said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import leanformer
from leanformer.errors import CheckpointError, ConfigError
from leanformer.zoo.identify import published_shapes


def file_of(name: str, **changes: object) -> dict[str, torch.Tensor]:
    """What a published file of a model holds, with random weights."""
    config = leanformer.build(name, **changes).config
    return {key: torch.randn(shape) for key, shape in published_shapes(config).items()}


def test_positions_follow_the_size_of_the_images(caplog):
    weights = file_of("deit_nano")
    model = leanformer.load("deit_nano", weights=weights, image_size=(96, 80))
    assert model(torch.randn(1, 3, 96, 80)).shape == (1, 10)
    assert model.preprocess.image_size == (96, 80)
    assert "deit_nano: 1 position tables are resized for 96 x 80 images" in caplog.text
    assert model.origin["changed"] == ["1 position tables are resized for 96 x 80 images"]
    small = leanformer.load("deit_nano", weights=weights)
    torch.testing.assert_close(model.backbone.position.table, small.backbone.position((12, 10)))


def test_positions_follow_the_shape_of_the_map_where_the_number_of_places_stays():
    weights = file_of("deit_nano")
    model = leanformer.load("deit_nano", weights=weights, image_size=(32, 128))
    small = leanformer.load("deit_nano", weights=weights)
    torch.testing.assert_close(model.backbone.position.table, small.backbone.position((4, 16)))
    assert model.origin["changed"] == ["1 position tables are resized for 32 x 128 images"]


def test_windows_grow_with_their_biases():
    weights = file_of("swin_nano", stem="patch")
    model = leanformer.load("swin_nano", weights=weights, stem="patch", window_size=6, image_size=96)
    bias = model.backbone.stages[0].blocks[0].attn.body.kernel.bias
    assert bias.table.shape == (121, 2)
    small = leanformer.load("swin_nano", weights=weights, stem="patch").backbone.stages[0].blocks[0].attn.body.kernel
    torch.testing.assert_close(bias((6, 6)), small.bias((6, 6)))


def test_positions_are_resized_on_request_alone():
    weights = file_of("deit_nano", image_size=96)
    with pytest.raises(CheckpointError, match=r"another shape, first: pos_embed is \(1, 145, 64\), expected \(1, 65"):
        leanformer.load("deit_nano", weights=weights)
    assert not leanformer.load("deit_nano", weights=weights, image_size=96).origin.get("changed")


def test_a_classifier_for_other_classes_is_new_and_all_zeros_and_said_so(caplog):
    model = leanformer.load("deit_nano", weights=file_of("deit_nano", num_classes=12), num_classes=7)
    assert model.head.linear.weight.shape == (7, 64)
    assert not model.head.linear.weight.any() and not model.head.linear.bias.any()
    assert "the classifier of 7 classes is new and all zeros; that of 12 classes in" in caplog.text
    assert "changed" in model.origin


def test_the_files_own_number_of_classes_changes_nothing(caplog):
    weights = file_of("deit_nano", num_classes=12)
    model = leanformer.load("deit_nano", weights=weights, num_classes=12)
    assert torch.equal(model.head.linear.weight, weights["head.weight"])
    assert caplog.text == ""


def test_a_file_without_a_classifier_gets_one_on_request(caplog):
    weights = file_of("deit_nano", num_classes=0)
    with pytest.raises(CheckpointError, match="2 keys are missing, first: head.weight"):
        leanformer.load("deit_nano", weights=weights)
    model = leanformer.load("deit_nano", weights=weights, num_classes=7)
    assert not model(torch.randn(1, 3, 64, 64)).any()
    assert "the classifier of 7 classes is new and all zeros; the file has none" in caplog.text
    assert leanformer.load("deit_nano", weights=weights, num_classes=0)(torch.randn(1, 3, 64, 64)).shape == (1, 64)


@pytest.mark.parametrize("form", ["file", "indices"])
def test_a_class_map_picks_rows(form, tmp_path, caplog):
    weights, rows = file_of("deit_nano", num_classes=12), (3, 11, 0, 3)
    (tmp_path / "map.txt").write_text("3\n11\n0\n3\n")
    class_map = tmp_path / "map.txt" if form == "file" else rows
    model = leanformer.load("deit_nano", weights=weights, class_map=class_map)
    assert torch.equal(model.head.linear.weight, weights["head.weight"][list(rows)])
    assert torch.equal(model.head.linear.bias, weights["head.bias"][list(rows)])
    assert model.config.num_classes == 4
    assert "the classifier's 4 rows are picked from 12 by the class map" in caplog.text


def test_both_classifiers_of_a_distilled_model_follow_a_class_map():
    weights = file_of("deit_nano", distilled=True, num_classes=12)
    model = leanformer.load("deit_nano", weights=weights, distilled=True, class_map=(5, 1))
    assert torch.equal(model.head.distillation.weight, weights["head_dist.weight"][[5, 1]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n-2\n", "line 2: '-2' is no index"),
        ("1\nn01440764\n", "line 2: 'n01440764' is no index"),
        ("12\n", "names row 12, but the classifier in .* has rows 0 to 11"),
        ("", "is empty"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_class_map_that_makes_no_sense_is_named(tmp_path, content, message):
    path = tmp_path / "map.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message):
        leanformer.load("deit_nano", weights=file_of("deit_nano", num_classes=12), class_map=path)


def test_a_class_map_and_another_number_of_classes_contradict_each_other():
    with pytest.raises(ConfigError, match="the class map has 2 entries, but num_classes is 3"):
        leanformer.load("deit_nano", weights=file_of("deit_nano"), class_map=(1, 2), num_classes=3)


def test_the_published_map_from_22k_classes_picks_the_rows_of_l2vit():
    arrays = np.load(Path(__file__).parents[1] / "golden" / "l2vit" / "training_pieces.npz")
    rows = arrays["extra_map22kto1k"]
    assert "22k" in json.dumps(json.loads(str(arrays["meta"])))
    weights = {**file_of("deit_nano", num_classes=0), "head.weight": torch.arange(21841.0)[:, None].expand(-1, 64),
               "head.bias": torch.arange(21841.0)}  # fmt: skip
    model = leanformer.load("deit_nano", weights=weights, class_map=rows.tolist())
    assert np.array_equal(model.head.linear.bias.detach().numpy(), rows)


@pytest.mark.parametrize("asked", [{"ema": True}, {"class_map": (1, 2)}])
def test_a_finished_model_keeps_its_classes_and_its_weights(tmp_path, asked):
    leanformer.save(leanformer.build("deit_nano"), tmp_path / "model")
    with pytest.raises(ConfigError, match=f"a finished model; {next(iter(asked))} cannot be changed"):
        leanformer.load(tmp_path / "model", **asked)


def test_an_averaged_copy_is_asked_of_files_alone():
    with pytest.raises(ConfigError, match="ema picks a copy in a file"):
        leanformer.load("deit_nano", weights=file_of("deit_nano"), ema=True)


@pytest.mark.parametrize("rows", [[1.5], ["a"], [True], torch.tensor([1, 2])])
def test_a_class_map_of_something_else_than_integers_is_refused(rows: object) -> None:
    with pytest.raises(CheckpointError, match=r"the class map holds .*, which is no index; give integers"):
        leanformer.load("deit_nano", weights=file_of("deit_nano"), class_map=rows)
