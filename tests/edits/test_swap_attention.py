"""A swapped attention is the one that a config would have built there, with what fits of the old one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import leanformer
from leanformer.config import from_dict, to_dict
from leanformer.edits import Edit, FoldNorms, MergeTokens, RemoveAttention, SwapAttention
from leanformer.errors import EditError
from leanformer.layers.attention import (
    Additive,
    AttentionConfig,
    EluLinear,
    FocusedLinear,
    MultiScaleLinear,
    SimplifiedLinear,
    Softmax,
)
from leanformer.layers.norm import Norms, PRepBN, ProgressiveNorm, RepBN
from leanformer.models import ImageClassifier, find

IMAGES = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(5))


def nano(name: str, **changes: object) -> ImageClassifier:
    model = ImageClassifier(replace(find(name), image_size=(40, 56), **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def tensors(model: ImageClassifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("deit_nano", FocusedLinear()),
        ("deit_nano", Softmax(relative_position=True)),
        ("swin_nano", SimplifiedLinear()),
        ("swin_nano", Additive()),
        ("pvt_nano", EluLinear()),
        ("pvt_v2_nano", MultiScaleLinear()),
        ("cswin_nano", SimplifiedLinear()),
        ("swiftformer_nano", Softmax()),
        ("l2vit_nano", SimplifiedLinear()),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_swapped_model_is_the_one_that_its_config_would_build(name: str, to: AttentionConfig) -> None:
    model, built = nano(name), ImageClassifier(replace(find(name), image_size=(40, 56), attention=to)).eval()
    before = tensors(model)
    report = leanformer.apply(model, SwapAttention(to=to))[0]
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}
    built.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(IMAGES), built(IMAGES))  # windows and masks too
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before if ".attn.body." not in key)
    assert report.details["blocks"]
    leanformer.apply(model, SwapAttention(to=find(name).attention or Softmax(), blocks=(1,)))
    assert model(IMAGES).isfinite().all()


def test_rows_of_queries_keys_and_values_are_kept_and_named() -> None:
    model = nano("deit_nano")
    qkv = model.backbone.stages[0].blocks[2].attn.body.qkv
    proj = model.backbone.stages[0].blocks[2].attn.body.proj
    report = leanformer.apply(model, SwapAttention(to=Additive(), blocks=(2,)))[0]
    body = model.backbone.stages[0].blocks[2].attn.body
    assert torch.equal(body.q.weight, qkv.weight[:64]) and torch.equal(body.q.bias, qkv.bias[:64])
    assert torch.equal(body.k.weight, qkv.weight[64:128]) and body.proj is proj
    name = "backbone.stages.0.blocks.2.attn.body"
    assert report.details["carried"] == {name: ["q", "k", "proj.weight", "proj.bias"]}
    assert report.details["new"] == {name: ["token_weight", "context.weight", "context.bias"]}
    assert report.details["left_out"] == {name: ["v"]}
    assert report.lines == (
        "swapped the attention of block 2 for Additive: train the model",
        "block 2: carried q, k, proj.weight, proj.bias; new token_weight, context.weight, context.bias; left out v",
    )
    leanformer.apply(model, SwapAttention(to=Softmax(), blocks=(2,)))
    again = model.backbone.stages[0].blocks[2].attn.body.qkv
    assert torch.equal(again.weight[:128], qkv.weight[:128]) and not torch.equal(again.weight[128:], qkv.weight[128:])


def test_parameters_that_both_kernels_have_are_kept() -> None:
    model = nano("swin_nano", attention=SimplifiedLinear())
    old = model.backbone.stages[0].blocks[0].attn.body.kernel
    report = leanformer.apply(model, SwapAttention(to=FocusedLinear()))[0]
    new = model.backbone.stages[0].blocks[0].attn.body.kernel
    assert torch.equal(new.key_position.table, old.key_position.table)
    assert torch.equal(new.local.conv.weight, old.local.conv.weight)
    assert set(map(tuple, report.details["new"].values())) == {("kernel.scale",)}


def test_a_softmax_that_is_swapped_for_one_without_bias_computes_the_same_at_zero_bias() -> None:
    model = nano("swin_nano")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias.table"):
                parameter.zero_()
        before = model(IMAGES)
        leanformer.apply(model, SwapAttention(to=Softmax()))
        torch.testing.assert_close(model(IMAGES), before, rtol=1e-6, atol=1e-6)


def test_the_whole_map_takes_the_place_of_windows() -> None:
    model = nano("swin_nano")
    to = SimplifiedLinear()
    leanformer.apply(model, SwapAttention(to=to, whole_map=True, blocks=(0, 1)))
    config = replace(model.config, attention=(to, Softmax(relative_position=True)), window_size=(None, 4))
    built = ImageClassifier(config).eval()
    built.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(IMAGES), built(IMAGES))


def test_new_values_follow_the_seed_and_leave_other_random_numbers_alone(tmp_path) -> None:
    models = [nano("deit_nano") for _ in range(3)]
    for model in models:
        model.load_state_dict(models[0].state_dict())
    torch.manual_seed(3)
    leanformer.apply(models[0], SwapAttention(to=FocusedLinear()))
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(2))
    leanformer.apply(models[1], SwapAttention(to=FocusedLinear()))
    leanformer.apply(models[2], SwapAttention(to=FocusedLinear(), seed=1))
    conv = "backbone.stages.0.blocks.1.attn.body.kernel.local.conv.weight"
    assert torch.equal(models[0].state_dict()[conv], models[1].state_dict()[conv])
    assert not torch.equal(models[0].state_dict()[conv], models[2].state_dict()[conv])
    change = models[2].edits[0]
    assert from_dict(to_dict(change), Edit) == change
    leanformer.save(models[2], tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(leanformer.load(tmp_path / "model")(IMAGES), models[2](IMAGES))


def test_what_a_folded_norm_left_in_the_projections_is_kept(tmp_path) -> None:
    """The biases that folding adds, where the config has none."""
    norms = Norms(block=RepBN())
    folded, swapped = (nano("swin_nano", norms=norms, qkv_bias=False) for _ in range(2))
    swapped.load_state_dict(folded.state_dict())
    leanformer.apply(folded, FoldNorms(), SwapAttention(to=EluLinear()))
    leanformer.apply(swapped, SwapAttention(to=EluLinear()), FoldNorms())
    with torch.no_grad():
        torch.testing.assert_close(folded(IMAGES), swapped(IMAGES), rtol=1e-5, atol=1e-5)
    leanformer.save(folded, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(leanformer.load(tmp_path / "model")(IMAGES), folded(IMAGES))


def test_a_swapped_norm_of_the_reduction_survives() -> None:
    model = nano("pvt_nano")
    leanformer.apply(model, leanformer.edits.SwapNorm(to=PRepBN(), where=("reduction",)), SwapAttention(to=EluLinear()))
    assert isinstance(model.backbone.stages[0].blocks[0].attn.body.norm, ProgressiveNorm)


@pytest.mark.parametrize(
    ("name", "earlier", "edit", "message"),
    [
        (
            "pvt_nano",
            (),
            SwapAttention(to=Softmax(relative_position=True)),
            "backbone.stages.0.blocks.0 cannot have softmax: a relative position needs keys on the map of the queries",
        ),
        (
            "deit_nano",
            (),
            SwapAttention(to=Softmax(), blocks=(1,)),
            r"block 1 \(backbone.stages.0.blocks.1\) has Softmax\(relative_position=False\) already",
        ),
        (
            "deit_nano",
            (),
            SwapAttention(to=EluLinear(), blocks=(4,)),
            "there is no block 4; this model has blocks 0 to 3",
        ),
        (
            "deit_nano",
            (RemoveAttention(blocks=(2,)),),
            SwapAttention(to=EluLinear(), blocks=(1, 2)),
            r"block 2 \(backbone.stages.0.blocks.2\) has no attention any more",
        ),
        (
            "deit_nano",
            (RemoveAttention(blocks=(0, 1, 2, 3)),),
            SwapAttention(to=EluLinear()),
            "ImageClassifier has no attention",
        ),
        (
            "deit_nano",
            (MergeTokens(r=2),),
            SwapAttention(to=EluLinear()),
            "blocks.0 is in a sequence that merges tokens .* swap attentions before merge_tokens",
        ),
        ("cswin_nano", (), SwapAttention(to=EluLinear(), whole_map=True), "leave whole_map out"),
    ],
)
def test_a_swap_that_cannot_be_is_refused_and_the_model_stays(
    name: str, earlier: tuple, edit: SwapAttention, message: str
) -> None:
    model = nano(name)
    leanformer.apply(model, *earlier)
    before, modules = tensors(model), str(model)
    with pytest.raises(EditError, match=message):
        leanformer.apply(model, edit)
    assert str(model) == modules and model.edits == list(earlier)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
