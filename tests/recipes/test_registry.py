"""A name stands for a run: a recipe, or a model with the recipe that suits any."""

from __future__ import annotations

from pathlib import Path

import pytest

from leanformer.errors import ConfigError
from leanformer.recipes import find_recipe


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
