"""A name stands for a run: a recipe, or a model with the recipe that suits any."""

from __future__ import annotations

from pathlib import Path

import pytest

from leanformer.edits import DropHeads, FoldNorms, FreezeNorms, SwapAttention, SwapNorm
from leanformer.errors import ConfigError
from leanformer.layers.attention import SimplifiedLinear
from leanformer.layers.norm import BatchNorm, LayerNorm, Norms, PRepBN
from leanformer.recipes import default_recipe, find_recipe
from leanformer.training import ModelSpec


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("deit_tiny", None),
        ("deit_tiny.in1k", "deit_tiny.in1k"),
        ("timm/deit_tiny_patch16_224", "timm/deit_tiny_patch16_224"),
        ("timm/deit_tiny_patch16_224.fb_in1k", "timm/deit_tiny_patch16_224.fb_in1k"),
    ],
)
def test_a_name_with_a_tag_starts_from_the_weights_that_it_names(
    name: str, weights: str | None, tmp_path: Path
) -> None:
    model = find_recipe(name, tmp_path).model
    assert (model.name, model.weights) == (name, weights)


def test_an_unknown_name_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown model or recipe 'slab_swin_nan'.*slab_swin_nano"):
        find_recipe("slab_swin_nan", tmp_path)


def test_a_model_gets_its_published_training_on_imagenet_and_the_default_one_elsewhere(tmp_path: Path) -> None:
    few, imagenet = tmp_path / "few", tmp_path / "imagenet"
    for number in range(1000):
        (imagenet / "train" / f"n{number:08d}").mkdir(parents=True)
    for number in range(10):
        (few / "train" / f"n{number:08d}").mkdir(parents=True)
    published = find_recipe("flatten_swin_tiny_in1k", tmp_path)
    assert find_recipe("flatten_swin_tiny", tmp_path, str(imagenet)) == published
    default = find_recipe("flatten_swin_tiny", tmp_path)
    assert default.epochs == 30
    for data in (few, tmp_path / "none", "garments"):
        assert find_recipe("flatten_swin_tiny", tmp_path, str(data)) == default
    unpublished = find_recipe("swin_nano", tmp_path, str(imagenet))
    assert unpublished == find_recipe("swin_nano", tmp_path)


@pytest.mark.parametrize(
    ("spec", "schedules", "recalibrates"),
    [
        (ModelSpec(name="deit_nano"), [], False),
        (ModelSpec(name="deit_nano", edits=(SwapNorm(),)), ["norm_progress"], True),
        (ModelSpec(name="deit_nano", edits=(SwapNorm(to=BatchNorm()),)), [], True),
        (
            ModelSpec(name="swin_nano", edits=(SwapAttention(to=SimplifiedLinear()),)),
            [],
            True,
        ),
        (ModelSpec(name="swiftformer_nano", edits=(FreezeNorms(),)), [], False),
        (ModelSpec(name="slab_swin_nano", edits=(FoldNorms(), DropHeads(heads=((0, (1,)),)))), [], False),
        (
            ModelSpec(name="deit_nano", overrides=(("norms", Norms(block=PRepBN(start=LayerNorm()))),)),
            ["norm_progress"],
            True,
        ),
    ],
    ids=["plain", "swapped", "batch", "attention", "frozen", "folded", "overridden"],
)
def test_the_default_recipe_suits_the_model_behind_its_edits(
    spec: ModelSpec, schedules: list[str], recalibrates: bool, tmp_path: Path
) -> None:
    recipe = default_recipe(spec, tmp_path)
    assert [scheduled.what for scheduled in recipe.schedules] == schedules
    assert bool(recipe.finish) == recalibrates
