"""Models that came with timm's weights take edits, and are saved with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import leanformer
from leanformer.edits import DropHeads, Edit, FoldNorms, FreezeNorms, FuseLinear, SwapAttention, SwapNorm
from leanformer.layers.attention import SimplifiedLinear
from leanformer.layers.norm import RepBN

PLACES = ("block", "final")
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("theirs", "ours", "changes"),
    [
        pytest.param(
            "deit_tiny_distilled_patch16_224",
            "deit_tiny_distilled",
            (SwapNorm(to=RepBN(), where=PLACES), FoldNorms()),
            marks=slow,
        ),
        ("pvt_v2_b0", "pvt_v2_b0", (FuseLinear(), DropHeads(heads=((6, (1, 4)), (7, (0,)))))),
        pytest.param(
            "swin_tiny_patch4_window7_224",
            "swin_tiny",
            (SwapAttention(to=SimplifiedLinear(), blocks=(0, 1), whole_map=True), SwapNorm(to=RepBN()), FreezeNorms()),
            marks=slow,
        ),
        pytest.param("vit_small_patch14_dinov2", "vit_small_dinov2", (FuseLinear(), SwapNorm()), marks=slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_with_weights_of_timm_is_edited_saved_and_loaded(
    theirs: str, ours: str, changes: tuple[Edit, ...], tmp_path: Path
) -> None:
    source = timm.create_model(theirs, num_classes=0 if "dinov2" in theirs else 1000)
    model = leanformer.load(ours, weights=source.state_dict())
    side = model.config.image_grid[0]
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        before = model(images)
        leanformer.apply(model, changes[0])
        if changes[0].exact:
            torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)
        leanformer.apply(model, *changes[1:])
        after = model(images)
    assert after.isfinite().all() and not torch.equal(after, before)
    leanformer.save(model, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(leanformer.load(tmp_path / "model")(images), after)
