"""Fused linear maps compute what they did, in fewer passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import leanformer
from leanformer.edits import DropHeads, FoldNorms, FuseLinear, SwapAttention
from leanformer.errors import EditError
from leanformer.layers.attention import Additive, MultiScaleLinear, NormalizedLinear, Softmax
from leanformer.models import ImageClassifier, find

IMAGES = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(5))
QKV, QK, SCALES = "projections of queries, keys and values", "projections of additive attention", "layer scales"
POSITIONS, TEMPERATURES, CLASSIFIERS = "convolutional positions", "temperatures", "second classifiers"

CASES = {
    "pvt": ("pvt_nano", {}, {QKV: 2}),
    "pvt without biases": ("pvt_nano", {"qkv_bias": False}, {QKV: 2}),
    "pvt_v2": ("pvt_v2_nano", {}, {QKV: 1}),
    "swiftformer": ("swiftformer_nano", {"distilled": True}, {QK: 3, SCALES: 12, CLASSIFIERS: 1}),
    "l2vit": ("l2vit_nano", {}, {POSITIONS: 6, TEMPERATURES: 2}),
    "l2vit with GELU in its positions": ("l2vit_nano", {"position_gelu": True}, {TEMPERATURES: 2}),
    "additive swin": ("swin_nano", {"attention": Additive(), "qkv_bias": False}, {QK: 4}),
    "additive cswin": ("cswin_nano", {"attention": Additive()}, {QK: 7}),
    "normalized cswin": ("cswin_nano", {"attention": NormalizedLinear()}, {}),
    "dinov2": ("deit_nano", {"layer_scale": 0.3}, {SCALES: 8}),
    "multi-scale dinov2": ("deit_nano", {"layer_scale": 0.3, "attention": MultiScaleLinear()}, {SCALES: 4}),
}


def nano(name: str, **changes: object) -> ImageClassifier:
    model = ImageClassifier(replace(find(name), image_size=(40, 56), **changes)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        model(IMAGES * 2 + 1)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "changes", "fused"), [c for c in CASES.values() if c[2]], ids=[k for k, c in CASES.items() if c[2]]
)
def test_a_fused_model_computes_the_same(name: str, changes: dict, fused: dict, tmp_path) -> None:
    model = nano(name, **changes)
    with torch.no_grad():
        before = model(IMAGES)
        report = leanformer.apply(model, FuseLinear())[0]
        after = model(IMAGES)
    assert ((after - before).abs().max() / before.abs().max()).item() <= 1e-6
    assert {what: len(names) for what, names in report.details.items() if names} == fused
    assert [line for line in report.lines if line.startswith("fused")] == [
        f"fused {n} {what}" for what, n in fused.items()
    ]
    model(IMAGES).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    leanformer.save(model, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(leanformer.load(tmp_path / "model")(IMAGES), after)
    with pytest.raises(EditError, match="no two linear maps"):
        leanformer.apply(model, FuseLinear())


def test_fewer_modules_are_left() -> None:
    model = nano("swiftformer_nano", distilled=True)
    leanformer.apply(model, FuseLinear(), FoldNorms())
    kinds = {type(module).__name__ for module in model.modules()}
    assert "LayerScale" not in kinds and model.head.distillation is None
    body = model.backbone.stages[0].blocks[1].attn.body
    assert body.qk.out_features == 2 * 32 and not hasattr(body, "q")


def test_a_layer_scale_behind_no_linear_layer_stays_and_is_named() -> None:
    model = nano("deit_nano", layer_scale=0.3, attention=MultiScaleLinear())
    report = leanformer.apply(model, FuseLinear())[0]
    named = ", ".join(f"backbone.stages.0.blocks.{i}.attn" for i in range(4))
    assert report.lines[-1] == f"the layer scales of {named} stay: no linear layer gives what they scale"


@pytest.mark.parametrize("name", ["swiftformer_nano", "pvt_nano", "pvt_v2_nano", "l2vit_nano"])
def test_norms_fold_before_or_after_alike(name: str) -> None:
    norms = leanformer.edits.SwapNorm(to=leanformer.edits.SwapNorm().to)
    one = nano(name)
    if name != "swiftformer_nano":
        leanformer.apply(one, norms)
        one.train()(IMAGES)
        for module in one.eval().modules():
            if hasattr(module, "set_scheduled"):
                module.set_scheduled(0.0)
    two = ImageClassifier(one.config).eval()
    leanformer.edits.replay(two, one.edits)
    two.load_state_dict(one.state_dict())
    for module in two.modules():
        if hasattr(module, "set_scheduled"):
            module.set_scheduled(0.0)
    with torch.no_grad():
        before = one(IMAGES)
        leanformer.apply(one, FuseLinear(), FoldNorms())
        leanformer.apply(two, FoldNorms(), FuseLinear())
        scale = before.abs().max()
        assert ((one(IMAGES) - before).abs().max() / scale).item() <= 1e-5
        assert ((two(IMAGES) - before).abs().max() / scale).item() <= 1e-5


def test_a_fused_pvt_loses_heads_and_takes_other_attentions() -> None:
    model = nano("pvt_nano")
    leanformer.apply(
        model, FuseLinear(), SwapAttention(to=NormalizedLinear(), blocks=(2,)), DropHeads(heads=((3, (1,)),))
    )
    assert model(IMAGES).isfinite().all()


@pytest.mark.parametrize(
    ("name", "changes"), [("swin_nano", {}), ("deit_nano", {}), ("cswin_nano", CASES["normalized cswin"][1])]
)
def test_a_model_without_neighboring_linear_maps_is_refused(name: str, changes: dict) -> None:
    with pytest.raises(EditError, match="fuse_linear: ImageClassifier has no two linear maps .* folded by fold_norms"):
        leanformer.apply(nano(name, **changes), FuseLinear())


def test_an_additive_attention_that_was_fused_is_not_swapped() -> None:
    model = nano("swiftformer_nano")
    leanformer.apply(model, FuseLinear())
    with pytest.raises(EditError, match="stages.0.blocks.1 is not what a config built: .* its layers were fused"):
        leanformer.apply(model, SwapAttention(to=Softmax()))
