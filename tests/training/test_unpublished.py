"""A combination that nobody published needs no new code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leanformer.layers.attention import Additive
from leanformer.layers.norm import Norms, PRepBN
from leanformer.recipes import default_recipe
from leanformer.training import ModelSpec, fit
from leanformer.zoo import find


@pytest.mark.slow
def test_cswin_with_additive_attention_and_progressive_norms_trains_on_garments(tmp_path: Path) -> None:
    config = replace(find("cswin_nano"), attention=Additive(), norms=Norms(block=PRepBN()), image_size=28)
    recipe = default_recipe(ModelSpec(config=config), tmp_path / "run")
    result = fit(replace(recipe, data="garments", epochs=3, batch_size=100))
    assert result.metrics["top1"] > 0.6  # ten classes
