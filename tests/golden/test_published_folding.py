"""Folding against the published one: ours keeps the unfolded model's outputs, theirs forgets a term in the stem."""

from __future__ import annotations

from pathlib import Path

import golden
import numpy as np
import pytest
import torch

import leanformer

HERE = Path(__file__).parent


@pytest.mark.parametrize(("case", "gain", "published_error"), [("fill", 0.6, 1.8e-3), ("one", 0.3, 6.6e-2)])
def test_folding_keeps_the_outputs_that_the_published_folding_loses(
    case: str, gain: float, published_error: float
) -> None:
    meta, _ = golden.load(HERE / "slab/gain0.6/swin_t_prepbn.npz")
    _, arrays = golden.load(HERE / "slab/modules/merge_swin_t_prepbn.npz")
    before, published = arrays[f"extra_{case}_before"], arrays[f"extra_{case}_after"]
    scale = np.abs(before).max()
    weights = {key: golden.fill(key, tuple(shape), "", gain) for key, shape in meta["keys"].items()}
    if case == "one":
        weights = {key: np.ones_like(v) if key.endswith("alpha") else v for key, v in weights.items()}
    model = leanformer.load("swin_tiny_prepbn", weights={key: torch.from_numpy(v) for key, v in weights.items()})
    x = torch.from_numpy(golden.example_input((1, 3, 224, 224)))
    with torch.inference_mode():
        np.testing.assert_allclose(model(x).numpy() / scale, before / scale, rtol=0, atol=1e-5)
    num_parameters = sum(p.numel() for p in model.parameters())
    leanformer.apply(model, leanformer.FoldNorms())
    with torch.inference_mode():
        np.testing.assert_allclose(model(x).numpy() / scale, before / scale, rtol=0, atol=1e-5)
    assert np.abs(published - before).max() / scale == pytest.approx(published_error, rel=0.1)
    assert sum(p.numel() for p in model.parameters()) == 28_264_930 < num_parameters
