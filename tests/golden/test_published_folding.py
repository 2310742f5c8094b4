"""Folding against the published one: ours keeps the unfolded model's outputs, theirs forgets a term in the stem."""

from __future__ import annotations

from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from published import close
from torch import nn

import leanformer
from leanformer.layers.attention import Softmax
from leanformer.layers.block import pre_norm_block
from leanformer.layers.embed import PatchEmbed, PatchMerging
from leanformer.layers.mlp import MLP
from leanformer.layers.norm import RepBatchNorm, RepBN
from leanformer.layers.region import Window
from leanformer.layers.site import Site

HERE = Path(__file__).parent
UNITS = HERE / "slab/modules/merge_units.npz"
RENAMED = {
    "attn.norm.": "norm1.",
    "mlp.norm.": "norm2.",
    "attn.body.kernel.bias.table": "attn.relative_position_bias_table",
    "attn.body.": "attn.",
    "mlp.body.": "mlp.",
}


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
        close(model(x), before)
    num_parameters = sum(p.numel() for p in model.parameters())
    leanformer.apply(model, leanformer.FoldNorms())
    with torch.inference_mode():
        folded = model(x)
    close(folded, before)
    for stage in ("blocks", "blocks_merging", "blocks_merging_final"):  # what they fold exactly, in their order
        close(folded, arrays[f"extra_{case}_{stage}"])
    assert np.abs(published - before).max() / scale == pytest.approx(published_error, rel=0.1)
    assert sum(p.numel() for p in model.parameters()) == 28_264_930 < num_parameters


def filled(module: nn.Module) -> nn.Module:
    """With the golden values of the published names."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name in parameters or name.endswith(("running_mean", "running_var")):
                value.copy_(torch.from_numpy(golden.fill(published_name(name), tuple(value.shape))))
    return module.eval()


def published_name(name: str) -> str:
    for ours, theirs in RENAMED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


@pytest.mark.parametrize("shift", [0, 2])
def test_a_block_folds_as_the_published_one(shift: int) -> None:
    _, arrays = golden.load(UNITS)
    mixer = Softmax(relative_position=True).build(Site(dim=32, num_heads=2, grid=(4, 4)))
    block = filled(pre_norm_block(32, mixer, MLP(32, 128), RepBN(), region=Window(4, shift, (8, 8))))
    x = torch.from_numpy(golden.example_input((2, 64, 32)))
    with torch.no_grad():
        close(block(x, (8, 8)), arrays[f"extra_block{shift}_before"])
        report = leanformer.apply(block, leanformer.FoldNorms())[0]
        close(block(x, (8, 8)), arrays[f"extra_block{shift}_after"])
    assert report.details["folded"] == ["attn.norm", "mlp.norm"]


def test_a_merging_of_patches_folds_as_the_published_one() -> None:
    _, arrays = golden.load(UNITS)
    merging = filled(PatchMerging(16, 32, RepBN().build(64)))
    x = torch.from_numpy(golden.example_input((2, 64, 16)))
    with torch.no_grad():
        close(merging(x, (8, 8))[0], arrays["extra_merging_before"])
        leanformer.apply(merging, leanformer.FoldNorms())
        close(merging(x, (8, 8))[0], arrays["extra_merging_after"])


@pytest.mark.parametrize(("case", "published_error"), [("fill", 9.9e-3), ("one", 3.8e-2)])
def test_a_stem_folds_exactly_where_the_published_one_does_not(case: str, published_error: float) -> None:
    _, arrays = golden.load(UNITS)
    before, published = arrays[f"extra_embed_{case}_before"], arrays[f"extra_embed_{case}_after"]
    stem = filled(PatchEmbed(3, 16, 4, RepBN().build(16)))
    assert isinstance(stem.norm, RepBatchNorm)
    x = torch.from_numpy(golden.example_input((2, 3, 32, 32)))
    with torch.no_grad():
        if case == "one":
            stem.norm.alpha.fill_(1.0)
        close(stem(x)[0], before)
        leanformer.apply(stem, leanformer.FoldNorms())
        close(stem(x)[0], before)
    assert np.abs(published - before).max() / np.abs(before).max() == pytest.approx(published_error, rel=0.1)
