"""Published weights load strictly; a wrong file is named for what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import leanformer
from leanformer.errors import CheckpointError, ConfigError
from leanformer.zoo.identify import looks_like, published_shapes
from leanformer.zoo.weights import layout_of, published


def file_of(name: str, **extra: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a published file of a model holds, with zeros for weights."""
    config = leanformer.models.find(name)
    shapes = published_shapes(config, layout_of(config))
    return {**{key: torch.zeros(shape) for key, shape in shapes.items()}, **extra}


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("swin_tiny", "layers.0.blocks.0.attn.scale (1, 1, 96)"),
        ("slab_swin_tiny", "patch_embed.norm.weight (96,)"),
        ("deit_tiny", "patch_embed.norm.weight (96,)"),
    ],
)
def test_a_checkpoint_of_another_model_names_its_first_foreign_key_and_the_model_it_looks_like(
    name: str, foreign: str
) -> None:
    with pytest.raises(CheckpointError) as error:
        leanformer.load(name, weights=file_of("flatten_swin_tiny"))
    text = str(error.value)
    assert f"not a checkpoint of {name}" in text
    assert f"first: {foreign}" in text
    assert "this looks like a checkpoint of flatten_swin_tiny; try that name" in text


def test_a_checkpoint_of_another_size_names_the_shapes() -> None:
    with pytest.raises(
        CheckpointError, match=r"another shape, first: cls_token is \(1, 1, 384\), expected \(1, 1, 192\)"
    ) as e:
        leanformer.load("deit_tiny", weights=file_of("deit_small"))
    assert "looks like a checkpoint of deit_small" in str(e.value)


def test_a_missing_key_is_named() -> None:
    weights = file_of("deit_tiny")
    del weights["blocks.3.attn.qkv.bias"]
    with pytest.raises(CheckpointError, match=r"1 keys are missing, first: blocks.3.attn.qkv.bias \(576,\)"):
        leanformer.load("deit_tiny", weights=weights)


def test_a_file_for_a_model_that_nobody_published_says_so() -> None:
    with pytest.raises(CheckpointError, match="slab_swin_nano has parts that no published file has") as error:
        leanformer.load("slab_swin_nano", weights=file_of("slab_swin_tiny"))
    assert "looks like a checkpoint of slab_swin_tiny" in str(error.value)


def test_buffers_that_a_swin_file_carries_are_dropped_and_counters_are_read() -> None:
    extra = {
        "layers.2.blocks.1.attn_mask": torch.zeros(4, 49, 49),
        "layers.2.blocks.1.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
        "norm.iter": torch.tensor(15_000),
        "norm.total_step": torch.tensor(60_000),
        "norm.warm": torch.tensor(0),
        "norm.norm2.bn.num_batches_tracked": torch.tensor(7),
    }
    model = leanformer.load("slab_swin_tiny", weights=file_of("slab_swin_tiny", **extra))
    assert model.head.norm.progress.item() == 0.25
    assert model.head.norm.rep.bn.num_batches_tracked.item() == 7
    assert model.backbone.stem.norm.progress.item() == 0.0


def test_a_classifier_of_other_classes_comes_with_its_file() -> None:
    weights = file_of("deit_tiny", **{"head.weight": torch.zeros(7, 192), "head.bias": torch.zeros(7)})
    assert leanformer.load("deit_tiny", weights=weights)(torch.zeros(1, 3, 224, 224)).shape == (1, 7)


def test_published_preprocessing_comes_with_the_weights() -> None:
    assert leanformer.load("flatten_swin_tiny.in1k", weights=file_of("flatten_swin_tiny")).preprocess.fit == "squash"
    assert published("flatten_swin_base_384").preprocess.crop == 1.0


def test_published_preprocessing_follows_the_image_size_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    squashed = replace(published("swin_tiny"), preprocess=leanformer.Preprocess(fit="squash"))
    monkeypatch.setattr("leanformer.zoo.resolve.published", lambda name: squashed)
    model = leanformer.load("swin_tiny", weights=file_of("swin_tiny"), image_size=(448, 224))
    assert model.preprocess == leanformer.Preprocess(fit="squash", image_size=(448, 224))


def test_weights_that_are_not_given_are_asked_for_with_the_page() -> None:
    with pytest.raises(CheckpointError, match=r"download slab_swin_tiny.pth from https://github.com/xinghaochen/SLAB"):
        leanformer.load("slab_swin_tiny")
    with pytest.raises(CheckpointError, match="swin_nano has no published weights"):
        leanformer.load("swin_nano")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("slab_swin_tinny", r"unknown model 'slab_swin_tinny'; did you mean slab_swin_tiny"),
        ("swin_tiny.in22k", r"unknown weights 'swin_tiny.in22k'; there are swin_tiny.in1k"),
    ],
)
def test_a_wrong_name_suggests_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        leanformer.load(name, weights={})


def test_a_folder_that_is_not_there_is_not_taken_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        leanformer.load(tmp_path / "runs" / "a")


@pytest.mark.parametrize("name", [name for name in leanformer.list_models() if published(name)])
def test_every_published_model_maps_to_published_names_and_back(name: str) -> None:
    config = leanformer.models.find(name)
    with torch.device("meta"):
        ours = leanformer.ImageClassifier(config).state_dict()
    key_map = layout_of(config).map_for(config)
    shapes = published_shapes(config, layout_of(config))
    renamed = key_map.rename(shapes)
    assert sorted(key for keys in renamed.values() for key in keys) == sorted(
        key for key in ours if not key.endswith((".progress", ".num_batches_tracked"))
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("head.bias", None, "'head.bias' is a NoneType"),
        (5, torch.zeros(1), "5 is a Tensor"),
        ("head.bias", torch.zeros(10).to_sparse(), "head.bias is sparse"),
        ("head.bias", torch.zeros(10, device="meta"), "head.bias is on the meta device"),
        ("head.weight", torch.zeros(()), r"head.weight is \(\), expected"),
    ],
)
def test_what_is_no_weight_is_named(key: object, value: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        leanformer.load("deit_nano", weights={**file_of("deit_nano"), key: value})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "name",
    ["deit_tiny_removed_0246", "deit_tiny_prepbn", "slab_deit_tiny", "flatten_pvt_tiny", "swin_small", "l2vit_tiny"],
)
def test_a_file_is_recognized_among_all_models(name: str) -> None:
    assert looks_like(published_shapes(leanformer.models.find(name))) == name


def test_a_file_of_something_else_is_not_recognized() -> None:
    assert looks_like({"layer1.0.conv1.weight": (64, 64, 1, 1), "fc.weight": (1000, 512)}) is None
    assert looks_like({}) is None


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_weights_that_are_no_finite_numbers_are_named(number: float) -> None:
    weights = file_of("deit_nano")
    weights["norm.bias"][3] = number
    with pytest.raises(CheckpointError, match=r"1 tensors hold NaN or infinity, first: norm.bias; .* diverged"):
        leanformer.load("deit_nano", weights=weights)
