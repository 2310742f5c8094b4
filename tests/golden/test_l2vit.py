"""L2ViT equals the published implementation: models, options, modules, training mode; its parameters and
multiply-accumulates are the published ones."""

from __future__ import annotations

from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from published import HERE, check_model, check_round_trip, close, weights_of

import leanformer
from leanformer.bench import count_cost
from leanformer.layers.attention import NormalizedLinear
from leanformer.layers.site import Site
from leanformer.models.l2vit import L2ViT
from leanformer.zoo.layouts.l2vit import L2VIT

slow = pytest.mark.slow
SMALL = {"dims": (32, 64, 128, 256), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
MODELS = {
    "l2vit/L2ViT_Tiny": "l2vit_tiny",
    "l2vit/L2ViT_Tiny_odd_size": "l2vit_tiny",
    "l2vit/L2ViT_Base": "l2vit_base",
    "l2vit/L2ViT_Base_384": "l2vit_base_384",
    "l2vit/variant_4layer_stem_all_global": L2ViT(**SMALL, stem="deep_conv", blocks="global"),
    "l2vit/variant_overlapped_lastproj": L2ViT(
        **SMALL, stem="overlapped_patch", overlapped=True, position_gelu=True, head_dim=1280
    ),
}
BIG = {"l2vit/L2ViT_Base", "l2vit/L2ViT_Base_384"}
ARRAYS = tuple[dict, dict[str, np.ndarray]]


def read(name: str) -> ARRAYS:
    return golden.load(HERE / f"l2vit/{name}.npz")


def check_gradients(output: torch.Tensor, x: torch.Tensor, module: torch.nn.Module, meta: dict, arrays: dict) -> None:
    """The gradients of mean(output ** 2) with respect to the input and, by their norms, to the parameters."""
    output.square().mean().backward()
    close(x.grad, arrays["extra_grad_input"], atol=1e-4)
    norms = [parameter.grad.norm().item() for parameter in module.parameters()]
    np.testing.assert_allclose(sorted(norms), sorted(arrays["grad_norms"]), rtol=1e-3)
    assert len(norms) == len(meta["params"])


def load_part(module: torch.nn.Module, meta: dict, published: str, ours: str) -> None:
    tensors = L2VIT.to_ours({f"{published}.{key}": value for key, value in weights_of(meta).items()})
    missing, unexpected = module.load_state_dict(
        {key.removeprefix(f"{ours}."): value for key, value in tensors.items()}, strict=False
    )
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)


@pytest.mark.parametrize("path", [pytest.param(p, marks=slow if p in BIG else ()) for p in MODELS])
def test_published_weights_give_the_published_outputs_and_gradients(path: str) -> None:
    check_model(path, MODELS[path])


@pytest.mark.parametrize("path", [p for p in MODELS if p not in BIG])
def test_weights_go_back_under_their_published_names_unchanged(path: str) -> None:
    check_round_trip(path, MODELS[path])


@pytest.mark.parametrize(("case", "dim", "heads", "grid"), [("d32_n20", 32, 2, (4, 5)), ("d96_n196", 96, 3, (14, 14))])
def test_linear_attention_equals_l2vit_with_and_without_its_floor(
    case: str, dim: int, heads: int, grid: tuple[int, int]
) -> None:
    meta, arrays = read(f"module_linear_attention_{case}")
    mixer = NormalizedLinear().build(Site(dim=dim, num_heads=heads, grid=grid)).eval()
    load_part(mixer, meta, "stages.0.1.attn", "backbone.stages.0.blocks.1.attn.body")
    x = torch.from_numpy(golden.example_input(meta["input_shape"])).requires_grad_()
    output = mixer(x, grid)
    close(output, arrays["output"])
    check_gradients(output, x, mixer, meta, arrays)


@pytest.mark.parametrize(("case", "blocks"), [("local_window", "local"), ("linear_global", "global")])
def test_a_block_equals_l2vit(case: str, blocks: str) -> None:
    meta, arrays = read(f"module_{case}_block_d32")
    backbone = L2ViT(dims=(32,), depths=(1,), num_heads=(2,), blocks=blocks).build().eval()
    block = backbone.stages[0].blocks[0]
    load_part(block, meta, "stages.0.0", "backbone.stages.0.blocks.0")
    x = torch.from_numpy(golden.example_input(meta["input_shape"])).requires_grad_()
    output = block(x, (10, 12))
    close(output, arrays["output"])
    check_gradients(output, x, block, meta, arrays)


def test_the_stem_pads_odd_sizes_like_l2vit() -> None:
    meta, arrays = read("module_patch_embed_stem")
    backbone = L2ViT(dims=(32,), depths=(0,), num_heads=(1,)).build().eval()
    load_part(backbone.stem, meta, "downsample_layers.0", "backbone.stem")
    x = torch.from_numpy(golden.example_input(meta["input_shape"])).requires_grad_()
    output, grid = backbone.embed(0.005 * x)
    assert grid == tuple(arrays["extra_new_size"])
    close(output, arrays["output"])
    check_gradients(output, x, backbone.stem, meta, arrays)


def test_downsampling_pads_odd_sides_behind_its_norm_like_l2vit() -> None:
    meta, arrays = read("module_patch_embed_stride2")
    backbone = L2ViT(dims=(32, 64), depths=(0, 0), num_heads=(1, 2)).build().eval()
    downsample = backbone.stages[1].downsample
    load_part(downsample, meta, "downsample_layers.1", "backbone.stages.1.downsample")
    x = torch.from_numpy(golden.example_input(meta["input_shape"])).requires_grad_()
    output, grid = downsample(0.005 * x, (9, 7))
    assert grid == tuple(arrays["extra_new_size"])
    close(output, arrays["output"])
    check_gradients(output, x, downsample, meta, arrays)


def test_it_trains_like_the_published_model() -> None:
    keys = read("L2ViT_Tiny")[0]
    meta, arrays = read("train_mode_Tiny")
    model = leanformer.load("l2vit_tiny", weights=weights_of(keys)).train()
    output = model(torch.from_numpy(golden.example_input(meta["input_shape"])))
    close(output, arrays["output"])
    output.square().mean().backward()
    grads = L2VIT.to_published({name: p.grad for name, p in model.named_parameters()})
    norms = [grads[key].norm().item() for key in meta["params"]]
    np.testing.assert_allclose(norms, arrays["grad_norms"], rtol=1e-3, atol=1e-8 * arrays["grad_norms"].max())
    state = L2VIT.to_published(model.state_dict())
    for key in meta["buffers_recorded"]:
        close(state[key], arrays[f"extra_{key.replace('.', '_')}"])


@pytest.mark.parametrize(
    ("name", "num_params", "size", "giga_macs"),
    [
        ("l2vit_tiny", 28_596_781, 224, 4.688),
        ("l2vit_small", 50_199_157, 224, 8.980),
        ("l2vit_base", 88_577_188, 224, 15.808),
        ("l2vit_base_384", 88_577_188, 384, 47.322),
    ],
)
def test_variants_have_the_published_parameters_and_multiply_accumulates(
    name: str, num_params: int, size: int, giga_macs: float
) -> None:
    with torch.device("meta"):
        model = leanformer.build(name)
    cost = count_cost(model, size)
    assert cost.parameters == num_params
    assert cost.macs / 1e9 == pytest.approx(giga_macs, rel=1e-3)


def test_a_file_pretrained_on_22k_classes_loads_with_its_head() -> None:
    meta, _ = read("variant_4layer_stem_all_global")
    weights = weights_of(meta)
    weights["head.weight"], weights["head.bias"] = torch.randn(21841, 256), torch.randn(21841)
    model = leanformer.load(MODELS["l2vit/variant_4layer_stem_all_global"], weights=weights)
    assert model.config.num_classes == 21841


@pytest.mark.parametrize("ema", [False, True])
def test_a_best_ema_file_holds_the_raw_weights_beside_the_averaged_ones(tmp_path: Path, ema: bool) -> None:
    meta, _ = read("variant_4layer_stem_all_global")
    raw = weights_of(meta)
    averaged = {key: value + 1.0 for key, value in raw.items()}
    torch.save({"model": raw, "model_ema": averaged, "epoch": "best-ema"}, tmp_path / "best-ema.pth")
    model = leanformer.load(MODELS["l2vit/variant_4layer_stem_all_global"], tmp_path / "best-ema.pth", ema=ema)
    assert torch.equal(model.head.linear.bias, (averaged if ema else raw)["head.bias"])
