"""CSwin with simplified, focused and softmax attention equals the published models, in stripes and over whole maps."""

from __future__ import annotations

import math
from dataclasses import replace

import golden
import pytest
import torch
from published import HERE, check_model, check_round_trip, close, weights_of
from torch import nn

import leanformer
from leanformer.bench import count_cost
from leanformer.checkpoints.resize import fit_positions
from leanformer.layers.attention import AttentionConfig, FocusedLinear, SimplifiedLinear, Softmax
from leanformer.layers.attention.cross_shaped import cross_shaped
from leanformer.layers.block import Block, pre_norm_block
from leanformer.layers.mlp import MLP
from leanformer.layers.norm import LayerNorm
from leanformer.layers.region import Stripes
from leanformer.layers.site import Site
from leanformer.models import ImageClassifier, find
from leanformer.models.cswin import CSwin
from leanformer.zoo.layouts.cswin import key_map
from leanformer.zoo.weights import published

SLAB, FLATTEN, SOFTMAX = SimplifiedLinear(spare_scale=True), FocusedLinear(), Softmax()
slow = pytest.mark.slow


def slab_cswin(**changes) -> CSwin:
    return replace(find("slab_cswin_tiny"), **changes)


MODELS = {
    "slab/gain0.6/slab_cswin_t": "slab_cswin_tiny",
    "slab/gain0.6/slab_cswin_t_LLLL": slab_cswin(attention=SLAB, split_size=None),
    "slab/gain0.6/slab_cswin_t_stripes": slab_cswin(
        attention=(SLAB, SLAB, (SLAB,) * 9 + (SOFTMAX,) * 9, SOFTMAX), split_size=(1, 2, 7, None)
    ),
    "flatten/flatten_cswin_t": "flatten_cswin_tiny",
    "flatten/flatten_cswin_b": "flatten_cswin_base",
    "flatten/flatten_cswin_b_384": "flatten_cswin_base_384",
    "flatten/option_cswin_LMSS2": CSwin(
        depths=(1, 3, 2, 1),
        dims=(32, 64, 128, 256),
        attention=(FLATTEN, (FLATTEN, FLATTEN, SOFTMAX), SOFTMAX, SOFTMAX),
        split_size=(None, (None, None, 2), 7, None),
    ),
}
QUICK = {"slab/gain0.6/slab_cswin_t_stripes", "flatten/option_cswin_LMSS2"}
PARAMS = [pytest.param(path, id=path, marks=() if path in QUICK else slow) for path in MODELS]


@pytest.mark.parametrize("path", PARAMS)
def test_published_weights_give_the_published_outputs_and_gradients_and_go_back_unchanged(path: str) -> None:
    check_model(path, MODELS[path])
    check_round_trip(path, MODELS[path])


def stripes_at(index: int, split_size: int) -> Stripes | None:
    """The region that the published code numbers `index`."""
    return None if index < 0 else Stripes(split_size, "down" if index == 0 else "across")


def check_branch(
    attention: AttentionConfig,
    region: Stripes | None,
    weights: dict[str, torch.Tensor],
    qkv: torch.Tensor,
    expected: tuple,
    num_heads: int,
) -> None:
    """The published attention modules take q, k and v; ours with its projection taken out must give the same outputs
    and input gradients."""
    side, dim = math.isqrt(qkv.shape[2]), qkv.shape[3]
    grid = side, side
    names = {
        "get_v.weight": "value_position.weight",
        "get_v.bias": "value_position.bias",
        "positional_encoding": "kernel.key_position.table",
        "dwc.weight": "kernel.local.conv.weight",
        "dwc.bias": "kernel.local.conv.bias",
        "scale": "kernel.scale",
    }
    size = grid if region is None else region.size(grid)
    site = Site(dim=dim, num_heads=num_heads, grid=size, out_proj=False, value_position=True)
    mixer = attention.build(site)
    mixer.qkv = nn.Identity()
    mixer.load_state_dict({names[key]: value for key, value in weights.items()})
    qkv = qkv.clone().requires_grad_()
    x = torch.cat(tuple(qkv), dim=-1)
    output = mixer(x, grid) if region is None else region(mixer, x, grid)
    close(output, expected[0])
    output.square().mean().backward()
    close(qkv.grad, expected[1])


@pytest.mark.parametrize(
    "case", ["cswin_idx-1", "cswin_idx0", "cswin_idx1", "cswin_tiny", "lepe_idx-1", "lepe_idx0", "lepe_idx1"]
)
def test_a_branch_equals_slab(case: str) -> None:
    meta, arrays = golden.load(HERE / "slab/modules/sla.npz")
    weights = {k: torch.from_numpy(golden.fill(k, tuple(s))) for k, s in meta["keys"][case].items()}
    qkv = torch.from_numpy(golden.example_input(meta["cases"][case]["input_shape"]))
    if case == "cswin_tiny":
        qkv, weights["positional_encoding"] = qkv * 1e-4, weights["positional_encoding"] * 1e-4
    region = None if case == "cswin_tiny" else stripes_at(int(case.partition("_idx")[2]), 2)
    expected = arrays[f"extra_{case}_output"], arrays[f"extra_{case}_grad_x"]
    check_branch(SLAB if case.startswith("cswin") else SOFTMAX, region, weights, qkv, expected, num_heads=2)


@pytest.mark.parametrize(
    ("name", "attention", "index", "num_heads"),
    [
        ("module_fla_cswin", FLATTEN, -1, 2),
        ("module_lepe_cswin_idx0", SOFTMAX, 0, 1),
        ("module_lepe_cswin_idx1", SOFTMAX, 1, 1),
    ],
)
def test_a_branch_equals_flatten(name: str, attention: AttentionConfig, index: int, num_heads: int) -> None:
    meta, arrays = golden.load(HERE / f"flatten/{name}.npz")
    qkv = torch.from_numpy(golden.example_input(meta["input_shape"]))
    expected = arrays["output"], arrays["extra_input_grad"]
    check_branch(attention, stripes_at(index, 7), weights_of(meta), qkv, expected, num_heads)


def test_a_branch_treats_dead_tokens_like_flatten() -> None:
    meta, arrays = golden.load(HERE / "flatten/module_fla_cswin_dead.npz")
    q, k, v = torch.from_numpy(arrays["extra_input"])
    mixer = FLATTEN.build(Site(dim=32, num_heads=2, grid=(6, 6), out_proj=False, value_position=True))
    mixer.qkv = nn.Identity()
    ours = key_map(find("flatten_cswin_tiny")).to_ours(
        {f"stage1.0.attns.0.{key}": value for key, value in weights_of(meta).items()}
    )
    prefix = "backbone.stages.0.blocks.0.attn.body.branches.0."
    mixer.load_state_dict({key.removeprefix(prefix): value for key, value in ours.items()})
    close(mixer(torch.cat((q, k, v), dim=-1), (6, 6)), arrays["output"])


@pytest.mark.parametrize(("kind", "attention", "split_size"), [("S", SOFTMAX, 7), ("L", FLATTEN, None)])
def test_a_block_equals_flatten(kind: str, attention: AttentionConfig, split_size: int | None) -> None:
    meta, arrays = golden.load(HERE / f"flatten/module_block_cswin_{kind}.npz")
    body = cross_shaped(attention, Site(dim=64, num_heads=4, grid=(14, 14)), split_size)
    block: Block = pre_norm_block(64, body, MLP(64, 256), LayerNorm())
    layout = key_map(CSwin(depths=(1,), dims=(64,), num_heads=(4,), attention=attention, split_size=(split_size,)))
    ours = layout.to_ours({f"stage1.0.{key}": value for key, value in weights_of(meta).items()})
    block.load_state_dict({key.removeprefix("backbone.stages.0.blocks.0."): value for key, value in ours.items()})
    x = torch.from_numpy(golden.example_input(meta["input_shape"])).requires_grad_()
    output = block(x, (14, 14))
    close(output, arrays["output"])
    output.square().mean().backward()
    close(x.grad, arrays["extra_input_grad"])


def test_weights_of_224_pixels_at_384_give_what_flatten_gives() -> None:
    meta, arrays = golden.load(HERE / "flatten/resize_cswin_224_to_384.npz")
    config = CSwin(
        depths=(1, 1, 2, 1),
        dims=(16, 32, 64, 128),
        num_heads=(2, 2, 4, 4),
        attention=(FLATTEN, FLATTEN, SOFTMAX, SOFTMAX),
        split_size=(None, None, 7, None),
    )
    shapes = {**meta["keys"], **{key: before for key, (before, _) in meta["resized"].items()}}
    weights = {key: torch.from_numpy(golden.fill(key, tuple(shape))) for key, shape in shapes.items()}
    small = leanformer.load(config, weights=weights)
    large = ImageClassifier(replace(config, image_size=384, split_size=(None, None, 12, None))).eval()
    large.load_state_dict(fit_positions(small.state_dict(), large))
    assert sum(p.numel() for p in large.parameters()) == meta["num_params"]
    tables = key_map(config).to_published(large.state_dict())
    close(tables[meta["picked"][0]], arrays["extra_resized_0"])
    close(large(torch.from_numpy(golden.example_input(meta["input_shape"]))), arrays["output"])


@pytest.mark.parametrize(
    ("name", "millions", "giga_macs"),
    [("cswin_tiny", 23, 4.3), ("cswin_small", 35, 6.9), ("cswin_base", 78, 15.0), ("cswin_base_384", 78, 47.0)],
)
def test_the_plain_models_cost_what_their_page_says(name: str, millions: int, giga_macs: float) -> None:
    with torch.device("meta"):
        model = leanformer.build(name)
    cost = count_cost(model, model.config.image_grid)
    assert math.ceil(cost.parameters / 1e6) == millions
    assert cost.macs / 1e9 == pytest.approx(giga_macs, rel=0.02)  # the page rounds, and counts norms too
    weights = published(name)
    assert weights is not None and weights.preprocess.image_size == model.config.image_grid
