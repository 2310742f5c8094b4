"""PVT and PVTv2, plain, with PRepBN, with simplified and with focused linear attention, equal the published models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import golden
import numpy as np
import pytest
import torch
from published import DEAD, HERE, check_model, check_round_trip, close, gradient_norms, weights_of
from torch.nn.attention import SDPBackend, sdpa_kernel

import leanformer
from leanformer.checkpoints.keymap import JoinRows, KeyMap, Rename
from leanformer.layers.attention import AttentionConfig, FocusedLinear, SimplifiedLinear, Softmax
from leanformer.layers.mlp import ConvMLP
from leanformer.layers.norm import LayerNorm, Norms, PRepBN
from leanformer.layers.site import Grid, Reduction, Site
from leanformer.models import find
from leanformer.models.pvt import Pyramid
from leanformer.zoo.layouts.pvt import OURS, PVT_V2

BODY = f"{OURS}.attn.body"
SLAB, FLATTEN, SOFTMAX = SimplifiedLinear(), FocusedLinear(), Softmax()
slow = pytest.mark.slow


def variant(name: str, **changes: Any) -> Pyramid:
    base = find(name)
    assert isinstance(base, Pyramid)
    return replace(base, **changes)


SLAB_MODELS = {
    "pvt_t_prepbn": "pvt_tiny_prepbn",
    "slab_pvt_t": "slab_pvt_tiny",
    "slab_pvt_t_mixed_LSLS": variant(
        "slab_pvt_tiny", attention=(SLAB, SOFTMAX, SLAB, SOFTMAX), reductions=(4, 4, 2, 1)
    ),
    "slab_pvt_t_sr8421": variant("slab_pvt_tiny", reductions=(8, 4, 2, 1)),
    "pvt_v2_b0_prepbn": "pvt_v2_b0_prepbn",
    "pvt_v2_b0_prepbn_linear": variant("pvt_v2_b0_prepbn", linear=True),
    "pvt_v2_b1_prepbn": "pvt_v2_b1_prepbn",
    "pvt_v2_b4_prepbn": "pvt_v2_b4_prepbn",
    "slab_pvt_v2_b0": "slab_pvt_v2_b0",
    "slab_pvt_v2_b0_linear": variant("slab_pvt_v2_b0", linear=True),
    "slab_pvt_v2_b0_sr8421": variant("slab_pvt_v2_b0", reductions=(8, 4, 2, 1)),
    "slab_pvt_v2_b1": "slab_pvt_v2_b1",
}
STEEP = {"slab_pvt_t_mixed_LSLS": 1e-3, "pvt_v2_b4_prepbn": 2e-3}
"""Files of gain 1 in which scores reach 1e4, and how near their gradients are to those of float64."""
MODELS = {
    **{f"slab/{file}": model for file, model in SLAB_MODELS.items() if file not in STEEP},
    **{f"slab/gain0.6/{file}": model for file, model in SLAB_MODELS.items()},
    "slab/gain0.6/pvt_t_prepbn_192x192": "pvt_tiny_prepbn",
    "slab/gain0.6/pvt_t_prepbn_256x320": "pvt_tiny_prepbn",
    "slab/gain0.6/pvt_s_prepbn": "pvt_small_prepbn",
    "slab/gain0.6/pvt_l_prepbn": "pvt_large_prepbn",
    "slab/gain0.6/slab_pvt_s": "slab_pvt_small",
    "slab/gain0.6/slab_pvt_l": "slab_pvt_large",
    "slab/gain0.6/pvt_v2_b0_prepbn_160x224": "pvt_v2_b0_prepbn",
    **{f"slab/gain0.6/pvt_v2_b{i}_prepbn": f"pvt_v2_b{i}_prepbn" for i in (2, 3, 5)},
    **{f"slab/gain0.6/slab_pvt_v2_b{i}": f"slab_pvt_v2_b{i}" for i in (2, 3, 4, 5)},
    "flatten/flatten_pvt_t": "flatten_pvt_tiny",
    "flatten/flatten_pvt_s": "flatten_pvt_small",
    "flatten/flatten_pvt_b": "flatten_pvt_base",
    **{f"flatten/flatten_pvt_v2_b{i}": f"flatten_pvt_v2_b{i}" for i in (0, 1, 2, 4, 5)},
    "flatten/option_pvt_t_LLSS": variant(
        "flatten_pvt_tiny", attention=(FLATTEN, FLATTEN, SOFTMAX, SOFTMAX), reductions=(1, 1, 2, 1)
    ),
    "flatten/option_pvt_t_factory_default": variant("flatten_pvt_tiny", reductions=(8, 4, 2, 1)),
    "flatten/option_pvt_v2_b0_LSLS": variant(
        "flatten_pvt_v2_b0", attention=(FLATTEN, SOFTMAX, FLATTEN, SOFTMAX), reductions=(2, 4, 1, 1)
    ),
    "flatten/option_pvt_v2_b0_factory_default": variant("flatten_pvt_v2_b0", reductions=(8, 4, 2, 1)),
    "flatten/option_pvt_v2_b0_linear": variant("flatten_pvt_v2_b0", linear=True),
}
QUICK = {
    "slab/gain0.6/pvt_t_prepbn_192x192",
    "slab/gain0.6/slab_pvt_t_mixed_LSLS",
    "slab/gain0.6/pvt_v2_b0_prepbn_160x224",
    "slab/gain0.6/slab_pvt_v2_b0_linear",
    "flatten/flatten_pvt_t",
    "flatten/option_pvt_v2_b0_LSLS",
}
PARAMS = [pytest.param(path, id=path, marks=() if path in QUICK else slow) for path in MODELS]


@pytest.mark.parametrize("path", PARAMS)
def test_published_weights_give_the_published_outputs_and_gradients(path: str) -> None:
    check_model(path, MODELS[path])


@pytest.mark.parametrize("path", PARAMS)
def test_weights_go_back_under_their_published_names_unchanged(path: str) -> None:
    check_round_trip(path, MODELS[path])


@slow
@pytest.mark.parametrize("file", STEEP)
def test_where_scores_are_in_the_thousands_the_gradients_are_those_of_float64(file: str) -> None:
    """In float32 the recorded gradients lose digits too, and torch's fused attention loses more than its plain one."""
    meta, expected = golden.load(HERE / f"slab/{file}.npz")
    model = leanformer.load(SLAB_MODELS[file], weights=weights_of(meta))
    images = torch.from_numpy(golden.example_input(meta["input_shape"]))
    close(model(images), expected["output"])
    with sdpa_kernel(SDPBackend.MATH):
        norms = gradient_norms(model, model.double()(images.double()), meta)
    atol = DEAD * np.nanmax(expected["grad_norms"])
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=STEEP[file], atol=atol)


PLAIN = {
    "pvt_tiny": 13.2,
    "pvt_small": 24.5,
    "pvt_medium": 44.2,
    "pvt_large": 61.4,
    "pvt_v2_b0": 3.7,
    "pvt_v2_b1": 14.0,
    "pvt_v2_b2": 25.4,
    "pvt_v2_b2_linear": 22.6,
    "pvt_v2_b3": 45.2,
    "pvt_v2_b4": 62.6,
    "pvt_v2_b5": 82.0,
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_models_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = leanformer.build(name)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(PLAIN[name], abs=0.05)


HUGGING_FACE = KeyMap(
    Rename("pvt.encoder.patch_embeddings.0.projection.{leaf}", "backbone.stem.proj.{leaf}"),
    Rename("pvt.encoder.patch_embeddings.0.layer_norm.{leaf}", "backbone.stem.norm.{leaf}"),
    Rename("pvt.encoder.patch_embeddings.{s}.projection.{leaf}", "backbone.stages.{s}.downsample.proj.{leaf}"),
    Rename("pvt.encoder.patch_embeddings.{s}.layer_norm.{leaf}", "backbone.stages.{s}.downsample.norm.{leaf}"),
    Rename("pvt.encoder.patch_embeddings.{s}.position_embeddings", "backbone.stages.{s}.position.table"),
    Rename("pvt.encoder.patch_embeddings.{s}.cls_token", "backbone.stages.{s}.class_token"),
    Rename(f"{(theirs := 'pvt.encoder.block.{s}.{b}')}.layer_norm_1.{{leaf}}", f"{OURS}.attn.norm.{{leaf}}"),
    Rename(f"{theirs}.layer_norm_2.{{leaf}}", f"{OURS}.mlp.norm.{{leaf}}"),
    Rename(f"{theirs}.attention.self.query.{{leaf}}", f"{BODY}.q.{{leaf}}"),
    JoinRows(tuple(f"{theirs}.attention.self.{part}.{{leaf}}" for part in ("key", "value")), f"{BODY}.kv.{{leaf}}"),
    Rename(f"{theirs}.attention.self.sequence_reduction.{{leaf}}", f"{BODY}.reduce.{{leaf}}"),
    Rename(f"{theirs}.attention.self.layer_norm.{{leaf}}", f"{BODY}.norm.{{leaf}}"),
    Rename(f"{theirs}.attention.output.dense.{{leaf}}", f"{BODY}.proj.{{leaf}}"),
    Rename(f"{theirs}.mlp.dense1.{{leaf}}", f"{OURS}.mlp.body.fc1.{{leaf}}"),
    Rename(f"{theirs}.mlp.dense2.{{leaf}}", f"{OURS}.mlp.body.fc2.{{leaf}}"),
    Rename("pvt.encoder.layer_norm.{leaf}", "head.norm.{leaf}"),
    Rename("classifier.{leaf}", "head.linear.{leaf}"),
    name="hugging_face_pvt",
)


@pytest.mark.extras
def test_the_plain_form_with_a_class_token_equals_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.PvtForImageClassification(
        transformers.PvtConfig(image_size=128, depths=[1, 1, 2, 1], num_labels=7)
    ).eval()
    weights = {key: torch.randn_like(value) * 0.05 + (value == 1) for key, value in theirs.state_dict().items()}
    theirs.load_state_dict(weights)
    norms = Norms(block=LayerNorm(eps=1e-6))  # 1e-6 everywhere, unlike the authors
    config = variant("pvt_tiny", image_size=128, depths=(1, 1, 2, 1), num_classes=7, norms=norms)
    model = leanformer.build(config).eval()
    model.load_state_dict(HUGGING_FACE.to_ours(weights))
    images = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        close(model(images), theirs(images).logits.numpy())


def loaded_attention(attention: AttentionConfig, site: Site, weights: dict[str, np.ndarray]) -> torch.nn.Module:
    mixer = attention.build(site)
    prefix = BODY.format(s=0, b=0) + "."
    ours = PVT_V2.to_ours({f"block1.0.attn.{key}": torch.from_numpy(value) for key, value in weights.items()})
    state = {key.removeprefix(prefix): value for key, value in ours.items()}
    mixer.load_state_dict({**mixer.state_dict(), **state})
    return mixer.eval()


def check_input_gradient(module: torch.nn.Module, shape: list[int], grid: Grid, output: Any, gradient: Any) -> None:
    x = torch.from_numpy(golden.example_input(shape)).requires_grad_()
    result = module(x, grid)
    close(result, output)
    result.square().mean().backward()
    close(x.grad, gradient, atol=1e-4)


HALF, POOLED = (Reduction(**how, norm=LayerNorm(eps=1e-5)) for how in ({"stride": 2}, {"pool": 7}))
WHOLE = replace(HALF, stride=1)


@pytest.mark.parametrize(
    ("name", "attention", "reduction"),
    [
        ("attn_pvt_sr2", SOFTMAX, HALF),
        ("attn_pvt_v2_linear", SOFTMAX, POOLED),
        ("fla_pvt", FLATTEN, WHOLE),
        ("fla_pvt_7x28", FLATTEN, WHOLE),
        ("fla_pvt_sr2", FLATTEN, HALF),
        ("fla_pvt_v2", FLATTEN, WHOLE),
        ("fla_pvt_v2_sr2", FLATTEN, HALF),
        ("fla_pvt_v2_linear", FLATTEN, POOLED),
    ],
)
def test_attention_to_a_coarser_map_equals_flatten(name: str, attention: AttentionConfig, reduction: Reduction) -> None:
    meta, arrays = golden.load(HERE / f"flatten/module_{name}.npz")
    grid = (7, 28) if name.endswith("7x28") else (14, 14)
    site = Site(dim=64, num_heads=2, grid=grid, reduction=reduction)
    mixer = loaded_attention(attention, site, golden.state_dict(meta))
    check_input_gradient(mixer, meta["input_shape"], grid, arrays["output"], arrays["extra_input_grad"])


PROGRESSIVE = PRepBN(start=LayerNorm(eps=1e-6))


@pytest.mark.parametrize(
    ("case", "attention", "reduction", "grid"),
    [
        ("pvt_sr1", SLAB, WHOLE, (8, 8)),
        ("pvt_sr2", SLAB, replace(HALF, norm=PROGRESSIVE), (8, 8)),
        ("pvt_sr4", SLAB, Reduction(stride=4, norm=PROGRESSIVE), (8, 8)),
        ("pvt2_sr2", SLAB, HALF, (8, 8)),
        ("pvt2_linear", SLAB, POOLED, (28, 28)),
        ("pvt_softmax_sr2", SOFTMAX, replace(HALF, norm=PROGRESSIVE), (8, 8)),
        ("pvt2_softmax_sr2", SOFTMAX, HALF, (8, 8)),
        ("pvt2_softmax_linear", SOFTMAX, POOLED, (16, 12)),
    ],
)
def test_attention_to_a_coarser_map_equals_slab(
    case: str, attention: AttentionConfig, reduction: Reduction, grid: Grid
) -> None:
    meta, arrays = golden.load(HERE / "slab/modules/sla.npz")
    weights = {key: golden.fill(key, tuple(shape)) for key, shape in meta["keys"][case].items()}
    mixer = loaded_attention(attention, Site(dim=64, num_heads=2, grid=grid, reduction=reduction), weights)
    shape = meta["cases"][case]["input_shape"]
    check_input_gradient(mixer, shape, grid, arrays[f"extra_{case}_output"], arrays[f"extra_{case}_grad_x"])


@pytest.mark.parametrize("linear", [False, True])
def test_the_mlp_with_a_convolution_equals_pvt_v2(linear: bool) -> None:
    meta, arrays = golden.load(HERE / f"flatten/module_mlp_pvt_v2{'_linear' * linear}.npz")
    mlp = ConvMLP(32, 64, relu=linear)
    weights = golden.state_dict(meta)
    mlp.load_state_dict({key.replace("dwconv.dwconv", "conv"): torch.from_numpy(w) for key, w in weights.items()})
    check_input_gradient(mlp, meta["input_shape"], (14, 14), arrays["output"], arrays["extra_input_grad"])


@pytest.mark.parametrize(
    ("file", "model", "frozen"),
    [
        ("pvt_t_prepbn_192x192", "pvt_tiny_prepbn", []),
        ("slab_pvt_v2_b0", "slab_pvt_v2_b0", [f"backbone.stages.{stage}.norm" for stage in range(3)]),
    ],
)
def test_norms_fold_exactly_but_for_those_in_front_of_padded_convolutions(
    file: str, model: str, frozen: list[str]
) -> None:
    meta, expected = golden.load(HERE / f"slab/gain0.6/{file}.npz")
    loaded = leanformer.load(model, weights=weights_of(meta))
    report = leanformer.apply(loaded, leanformer.FoldNorms())[0]
    assert report.details["frozen"] == frozen and not report.details["left"]
    with torch.inference_mode():
        close(loaded(torch.from_numpy(golden.example_input(meta["input_shape"]))), expected["output"])
