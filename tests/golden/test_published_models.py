"""Every published model of SLAB, FLatten and DeiT that we hold reference outputs for gives those outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import golden
import pytest
import torch
from published import HERE, check_model, check_round_trip, weights_of

import leanformer
from leanformer.layers.attention import FocusedLinear, SimplifiedLinear
from leanformer.layers.norm import RepBN
from leanformer.models import find
from leanformer.models.swin import SWIN_SOFTMAX, Swin

SLAB, FLATTEN, SOFTMAX = SimplifiedLinear(), FocusedLinear(), SWIN_SOFTMAX
slow = pytest.mark.slow


def slab_swin(**changes) -> Swin:
    return replace(find("slab_swin_tiny"), **changes)


def flatten_swin_nano(**changes) -> Swin:
    return Swin(dims=(24, 48, 96, 192), depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), **changes)


MODELS = {
    "slab/gain0.6/deit_t_prepbn": "deit_tiny_prepbn",
    "slab/gain0.6/deit_s_prepbn": "deit_small_prepbn",
    "slab/gain0.6/slab_deit_t": "slab_deit_tiny",
    "slab/gain0.6/slab_deit_s": "slab_deit_small",
    "slab/slab_deit_t": "slab_deit_tiny",
    "slab/slab_deit_s": "slab_deit_small",
    "slab/gain0.6/slab_swin_t": "slab_swin_tiny",
    "slab/gain0.6/slab_swin_s": "slab_swin_small",
    "slab/gain0.6/swin_t_prepbn": "swin_tiny_prepbn",
    "slab/gain0.6/swin_t_prepbn_linearnorm": "swin_tiny_prepbn",
    "slab/gain0.6/slab_swin_t_LLLL": slab_swin(attention=SLAB, window_size=None, absolute_position=True),
    "slab/slab_swin_t_LLLL": slab_swin(attention=SLAB, window_size=None, absolute_position=True),
    "slab/gain0.6/slab_swin_t_LLMS3": slab_swin(
        attention=(SLAB, SLAB, (SLAB,) * 3 + (SOFTMAX,) * 3, SOFTMAX),
        window_size=(None, None, (None,) * 3 + (7,) * 3, 7),
    ),
    "slab/gain0.6/slab_swin_t_w7": slab_swin(window_size=7, unmasked_shift=True),
    "flatten/flatten_swin_t": "flatten_swin_tiny",
    "flatten/flatten_swin_b": "flatten_swin_base",
    "flatten/flatten_swin_b_384": "flatten_swin_base_384",
    "flatten/option_swin_LMSS1": flatten_swin_nano(
        attention=(FLATTEN, (FLATTEN, SOFTMAX), SOFTMAX, SOFTMAX), window_size=(None, (None, 7), 7, 7)
    ),
    "flatten/option_swin_win14_ape": flatten_swin_nano(
        attention=(FLATTEN, FLATTEN, SOFTMAX, SOFTMAX),
        window_size=(14, 14, 7, 7),
        unmasked_shift=True,
        absolute_position=True,
    ),
    "attention_removal/deit_tiny_patch16_224": "deit_tiny",
    "attention_removal/deit_small_patch16_224": "deit_small",
    "attention_removal/deit_base_patch16_224": "deit_base",
}
QUICK = {
    "slab/gain0.6/deit_t_prepbn",
    "slab/gain0.6/slab_deit_t",
    "slab/gain0.6/slab_swin_t",
    "slab/gain0.6/swin_t_prepbn",
    "slab/gain0.6/swin_t_prepbn_linearnorm",
    "slab/gain0.6/slab_swin_t_LLMS3",
    "slab/gain0.6/slab_swin_t_w7",
    "flatten/flatten_swin_t",
    "flatten/option_swin_LMSS1",
    "flatten/option_swin_win14_ape",
    "attention_removal/deit_tiny_patch16_224",
}
PARAMS = [pytest.param(path, id=path, marks=() if path in QUICK else slow) for path in MODELS]


@pytest.mark.parametrize("path", PARAMS)
def test_published_weights_give_the_published_outputs_and_gradients(path: str) -> None:
    check_model(path, MODELS[path])


@pytest.mark.parametrize("path", [p for p in MODELS if p in QUICK])
def test_weights_go_back_under_their_published_names_unchanged(path: str) -> None:
    check_round_trip(path, MODELS[path])


@pytest.mark.parametrize(
    ("name", "num_params"),
    [("slab_swin_base", 89_029_373), ("flatten_swin_small", 50_510_288), ("slab_swin_tiny", 29_216_605)],
)
def test_variants_without_a_golden_file_have_the_published_number_of_parameters(name: str, num_params: int) -> None:
    with torch.device("meta"):
        model = leanformer.build(name)
    assert sum(p.numel() for p in model.parameters()) == num_params


def test_a_bare_file_builds_bare_norms_and_a_progressive_file_finished_progressive_ones() -> None:
    bare, _ = golden.load(HERE / "slab/gain0.6/swin_t_prepbn.npz")
    progressive, _ = golden.load(HERE / "slab/gain0.6/swin_t_prepbn_linearnorm.npz")
    assert isinstance(leanformer.load("swin_tiny_prepbn", weights=weights_of(bare)).config.norms.block, RepBN)
    model = leanformer.load("swin_tiny_prepbn", weights=weights_of(progressive))
    assert model.head.norm.progress.item() == 0.0
    report = leanformer.apply(model, leanformer.FoldNorms())[0]
    assert len(report.details["folded"]) == 29


def test_a_wrapped_file_loads_like_its_tensors(tmp_path: Path) -> None:
    meta, _ = golden.load(HERE / "flatten/option_swin_LMSS1.npz")
    weights = weights_of(meta)
    torch.save({"model": weights, "epoch": 300, "max_accuracy": 82.1}, tmp_path / "wrapped.pth")
    x = torch.from_numpy(golden.example_input((1, 3, 224, 224)))
    config = MODELS["flatten/option_swin_LMSS1"]
    with torch.inference_mode():
        expected = leanformer.load(config, weights=weights)(x)
        assert torch.equal(leanformer.load(config, weights=tmp_path / "wrapped.pth")(x), expected)
