"""A model without heads computes what it would if those heads gave zeros."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import leanformer
from leanformer import bench
from leanformer.config import from_dict, to_dict
from leanformer.edits import DropHeads, Edit, RemoveAttention, SwapAttention
from leanformer.errors import ConfigError, EditError
from leanformer.layers.attention import (
    Additive,
    AttentionConfig,
    EluLinear,
    FocusedLinear,
    MultiScaleLinear,
    NormalizedLinear,
    SimplifiedLinear,
    Softmax,
)
from leanformer.models import ImageClassifier, find

IMAGES = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(5))
APART = [
    Softmax(),
    Softmax(relative_position=True),
    EluLinear(),
    SimplifiedLinear(spare_scale=True),
    NormalizedLinear(floor=1.0),
    MultiScaleLinear(scales=(3, 5)),
]


def nano(name: str, attention: AttentionConfig, **changes: object) -> ImageClassifier:
    model = ImageClassifier(replace(find(name), image_size=(40, 56), attention=attention, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def silence(model: nn.Module, block: str, head: int, head_dim: int) -> None:
    """Zero what the projection behind the attention reads of a head."""
    body = model.get_submodule(f"{block}.attn.body")
    layer = body.kernel.join if hasattr(getattr(body, "kernel", None), "join") else body.proj
    width = layer.out_features
    columns = layer.weight.data.unflatten(1, (-1, width))  # one part for each scale
    columns[:, :, head * head_dim : (head + 1) * head_dim] = 0.0


CASES = [
    *(("swin_nano", attention, ((1, (1,)), (2, (0, 3)))) for attention in APART),
    *(("deit_nano", attention, ((0, (0,)), (3, (1,)))) for attention in APART[:2]),
    ("pvt_nano", Softmax(), ((0, (1,)), (2, (0, 2)))),
    ("pvt_v2_nano", SimplifiedLinear(), ((2, (1,)), (3, (0, 1, 2)))),
    ("cswin_nano", SimplifiedLinear(), ((1, (2, 1)), (3, (7, 0)))),
    ("swiftformer_nano", Softmax(), ((1, (0,)), (2, (3,)))),
    ("l2vit_nano", NormalizedLinear(), ((1, (0,)),)),
]


@pytest.mark.parametrize(("name", "attention", "heads"), CASES, ids=lambda value: getattr(value, "kind", str(value)))
def test_a_dropped_head_is_one_that_gives_zeros(name: str, attention: AttentionConfig, heads: tuple) -> None:
    model = nano(name, attention)
    silent = copy.deepcopy(model)
    blocks = [name for name, module in model.named_modules() if type(module).__name__ == "Block"]
    for block, dropped in heads:
        body = model.get_submodule(f"{blocks[block]}.attn.body")
        kernel = getattr(body, "kernel", None) or body.branches[0].kernel
        for head in dropped:
            silence(silent, blocks[block], head, kernel.dim // kernel.num_heads)
    with torch.no_grad():
        whole = model(IMAGES)
        report = leanformer.apply(model, DropHeads(heads=heads))[0]
        torch.testing.assert_close(model(IMAGES), silent(IMAGES), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(model(IMAGES), whole, rtol=1e-4, atol=1e-4)
    assert report.details["parameters"] > 0
    before, after = (bench.count_cost(each, (40, 56)) for each in (silent, model))
    assert after.parameters == before.parameters - report.details["parameters"]
    assert after.macs < before.macs
    model(IMAGES).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_heads_are_counted_among_those_that_are_left() -> None:
    one = nano("deit_nano", Softmax(), num_heads=4)
    two = copy.deepcopy(one)
    leanformer.apply(one, DropHeads(heads=((0, (1, 3)),)))
    leanformer.apply(two, DropHeads(heads=((0, (1,)),)), DropHeads(heads=((0, (2,)),)))
    with torch.inference_mode():
        assert torch.equal(one(IMAGES), two(IMAGES))


def test_a_model_without_heads_is_saved_loaded_and_exported_to_json(tmp_path) -> None:
    model = nano("swin_nano", Softmax(relative_position=True))
    change = DropHeads(heads=((1, (1,)), (2, (0, 3))))
    assert from_dict(to_dict(change), Edit) == change
    leanformer.apply(model, change)
    leanformer.save(model, tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(leanformer.load(tmp_path / "model")(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    ("name", "attention", "heads", "message"),
    [
        ("deit_nano", Softmax(), ((0, (0, 1)),), r"would lose all its 2 heads; .* RemoveAttention\(blocks=\(0,\)\)"),
        (
            "deit_nano",
            Softmax(),
            ((0, (1,)), (2, (2,))),
            r"block 2 \(backbone.stages.0.blocks.2\) has heads 0 to 1, not 2",
        ),
        ("deit_nano", Softmax(), ((4, (1,)),), "drop_heads: there is no block 4; this model has blocks 0 to 3"),
        (
            "swiftformer_nano",
            Additive(),
            ((2, (0,)),),
            "stages.2.blocks.1.attn.body is AdditiveAttention, which splits no heads",
        ),
        (
            "swin_nano",
            FocusedLinear(),
            ((0, (0,)),),
            r"blocks.0.attn.body.kernel is FocusedKernel, whose heads depend on each other",
        ),
        ("cswin_nano", Softmax(), ((1, (0, 1)),), "all heads of one direction of its stripes; keep one among 0 to 1"),
        ("cswin_nano", MultiScaleLinear(), ((1, (0,)),), "MultiScaleKernel, which mixes its heads before the local"),
    ],
)
def test_heads_that_cannot_go_are_refused_and_the_model_stays(
    name: str, attention: AttentionConfig, heads: tuple, message: str
) -> None:
    model = nano(name, attention)
    before, modules = {k: v.clone() for k, v in model.state_dict().items()}, str(model)
    with pytest.raises(EditError, match=message):
        leanformer.apply(model, DropHeads(heads=heads))
    assert str(model) == modules and model.edits == []
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_block_without_attention_has_no_heads_and_one_with_fewer_takes_no_other_attention() -> None:
    model = nano("deit_nano", Softmax())
    leanformer.apply(model, RemoveAttention(blocks=(1,)), DropHeads(heads=((0, (1,)),)))
    with pytest.raises(EditError, match=r"drop_heads: block 1 .* has no attention any more"):
        leanformer.apply(model, DropHeads(heads=((1, (1,)),)))
    with pytest.raises(EditError, match=r"stages.0.blocks.0 is not what a config built: heads were dropped"):
        leanformer.apply(model, SwapAttention(to=SimplifiedLinear()))


@pytest.mark.parametrize("heads", [(), ((0, ()),), ((0, (1, 1)),)], ids=str)
def test_heads_are_named_each_once(heads: tuple) -> None:
    with pytest.raises(ConfigError, match="heads names blocks with heads of theirs, each once"):
        DropHeads(heads=heads)
