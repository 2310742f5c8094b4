"""SwiftFormer equals its authors' code, timm and, in its first generation, what Hugging Face has."""

from __future__ import annotations

from dataclasses import replace

import golden
import numpy as np
import pytest
import torch
from published import DEAD, HERE, check_model, check_round_trip, close, weights_of

import leanformer
from leanformer.bench import count_cost
from leanformer.layers.attention import Additive
from leanformer.models import BackboneConfig, find
from leanformer.zoo.weights import layout_of, layouts_of

slow = pytest.mark.slow
XS = find("swiftformer_xs")
MODELS = {
    "SwiftFormer_XS": "swiftformer_xs",
    "SwiftFormer_XS_single_head": replace(XS, distilled=False),
    "SwiftFormer_S": "swiftformer_s",
    "SwiftFormer_S_odd_size": "swiftformer_s",
    "SwiftFormer_L3": "swiftformer_l3",
}
QUICK = ("SwiftFormer_XS", "SwiftFormer_XS_single_head", "SwiftFormer_S_odd_size")


@pytest.mark.parametrize("path", [pytest.param(path, marks=() if path in QUICK else slow) for path in MODELS])
def test_published_weights_give_the_published_outputs_and_gradients(path: str) -> None:
    model = check_model(f"swiftformer/{path}", MODELS[path])
    meta, arrays = golden.load(HERE / f"swiftformer/{path}.npz")
    if "extra_head_logits" in arrays:
        model.train().head.separate = True
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.eval()
        for scores, name in zip(model(torch.from_numpy(golden.example_input(meta["input_shape"]))),
                                ("extra_head_logits", "extra_dist_logits"), strict=True):  # fmt: skip
            close(scores, arrays[name])


@pytest.mark.parametrize("path", ["SwiftFormer_XS", "SwiftFormer_XS_single_head"])
def test_weights_go_back_under_their_published_names_unchanged(path: str) -> None:
    check_round_trip(f"swiftformer/{path}", MODELS[path])


@pytest.mark.parametrize("distilled", [True, False])
@pytest.mark.parametrize(
    ("name", "two_heads", "one_head", "gmacs"),
    [
        ("swiftformer_xs", 3_475_360, 3_254_360, 0.602),
        ("swiftformer_s", 6_092_128, 5_867_128, 0.985),
        ("swiftformer_l1", 12_057_920, 11_672_920, 1.596),
        ("swiftformer_l3", 28_494_736, 27_981_736, 4.008),
    ],
)
def test_parameters_and_macs_are_the_measured_ones(
    name: str, two_heads: int, one_head: int, gmacs: float, distilled: bool
) -> None:
    with torch.device("meta"):
        cost = count_cost(leanformer.build(replace(find(name), distilled=distilled)), 224)
    assert cost.parameters == (two_heads if distilled else one_head)
    assert cost.macs / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_training_uses_batch_statistics_and_gives_both_scores() -> None:
    meta, arrays = golden.load(HERE / "swiftformer/train_mode_XS.npz")
    weights = weights_of(golden.load(HERE / "swiftformer/SwiftFormer_XS.npz")[0])
    model = leanformer.load("swiftformer_xs", weights=weights).train()
    model.head.separate = True
    first, second = model(torch.from_numpy(golden.example_input(meta["input_shape"])))
    close(first, arrays["extra_head"], 5e-5)
    close(second, arrays["extra_dist"], 5e-5)
    (first.square().mean() + second.square().mean()).backward()
    key_map = layout_of(model.config).map_for(model.config)
    grads = key_map.to_published({name: p.grad for name, p in model.named_parameters()})
    norms = [grads[key].norm().item() for key in meta["params"]]
    largest = arrays["grad_norms"].max()
    np.testing.assert_allclose(norms, arrays["grad_norms"], rtol=1e-3, atol=1e-6 * largest)
    state = key_map.to_published(model.state_dict())
    for name, key in (("patch_embed_1", "patch_embed.1"), ("norm", "norm")):
        for leaf in ("running_mean", "running_var"):
            close(state[f"{key}.{leaf}"], arrays[f"extra_{name}_{leaf}"])


@pytest.mark.parametrize("last3", ["", "_last3"])
def test_maps_for_dense_tasks_are_the_published_ones_before_their_norms(last3: str) -> None:
    meta, arrays = golden.load(HERE / f"swiftformer/SwiftFormer_XS_fork_feat{last3}.npz")
    weights = weights_of(meta)
    own = {key: weights.pop(key) for key in list(weights) if key.startswith("norm")}
    config = replace(XS, num_classes=0, distilled=False)
    model = leanformer.build(config).eval()
    ours = layout_of(config).map_for(config).to_ours(weights)
    missing, unexpected = model.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(key.startswith("head.norm") or key.endswith("num_batches_tracked") for key in missing)
    with torch.inference_mode():
        maps = model.backbone.forward_features(torch.from_numpy(golden.example_input(meta["input_shape"])))
    for index in range(4):
        norm = {leaf: own.get(f"norm{2 * index}.{leaf}") for leaf in ("running_mean", "running_var", "weight", "bias")}
        if norm["weight"] is not None:
            maps[index] = torch.nn.functional.batch_norm(maps[index], **norm)
    assert [list(image.shape) for image in maps] == arrays["extra_map_shapes"].tolist()
    close(torch.cat([image[..., ::4, ::4].reshape(-1) for image in maps]), arrays["output"])
    close(torch.tensor([[image.mean(), image.std()] for image in maps]), arrays["extra_map_stats"])


BLOCK, PUBLISHED_BLOCK = "backbone.stages.0.blocks.2.", "network.0.2."


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("module_efficient_additive_attention_d48", "attn."),
        ("module_efficient_additive_attention_d220", "attn."),
        ("module_efficient_additive_attention_v1_d48", "attn."),
        ("module_encoder_block_d48", ""),
    ],
)
def test_modules_alone_equal_the_published_ones(path: str, part: str) -> None:
    meta, arrays = golden.load(HERE / f"swiftformer/{path}.npz")
    shape = meta["input_shape"]
    dim = shape[2] if part else shape[1]
    attention = Additive(token_norm="ones" if "_v1_" in path else "l2")
    module = leanformer.build(replace(XS, dims=(dim, 8, 8, 8), attention=attention)).eval().backbone.stages[0].blocks[2]
    module, ours = (module.attn.body, BLOCK + "attn.body.") if part else (module, BLOCK)
    key_map, prefix = layout_of(XS).map_for(XS), PUBLISHED_BLOCK + part
    state = key_map.to_ours({prefix + key: value for key, value in weights_of(meta).items()})
    missing, unexpected = module.load_state_dict({k.removeprefix(ours): v for k, v in state.items()}, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)

    x = torch.from_numpy(golden.example_input(shape)).requires_grad_()
    grid = (1, shape[1]) if part else (shape[2], shape[3])
    out = module(x, grid) if part else module(x.flatten(2).transpose(1, 2), grid)
    out = out if part else out.transpose(1, 2).unflatten(2, grid)
    close(out, arrays["output"])
    out.square().mean().backward()
    close(x.grad, arrays["extra_grad_input"], 1e-4)
    grads = key_map.to_published({ours + k: p.grad for k, p in module.named_parameters() if p.grad is not None})
    norms = [grads[prefix + key].norm().item() if prefix + key in grads else 0.0 for key in meta["params"]]
    np.testing.assert_allclose(norms, arrays["grad_norms"], rtol=1e-3, atol=DEAD * arrays["grad_norms"].max())


def randomised(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random weights and statistics for every entry of a model's state, counters left alone."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            state[key] = value
        elif key.endswith("running_var"):
            state[key] = torch.rand(value.shape, generator=generator) + 0.5
        else:
            fan_in = max(value[0].numel(), 1) if value.ndim > 1 else 4
            state[key] = torch.randn(value.shape, generator=generator) / fan_in**0.5
    return state


@pytest.mark.parametrize("size", ["xs", pytest.param("s", marks=slow), pytest.param("l1", marks=slow),
                                  pytest.param("l3", marks=slow)])  # fmt: skip
def test_it_equals_timm_with_equal_weights(size: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(f"swiftformer_{size}").eval()
    theirs.load_state_dict(randomised(theirs))
    model = leanformer.load(f"swiftformer_{size}", weights=theirs.state_dict())
    x = torch.randn(2, 3, 224, 192)
    with torch.inference_mode():
        close(model(x), theirs(x).numpy())
    layout = next(layout for layout in layouts_of(model.config) if layout.name == "timm")
    back = layout.map_for(model.config).to_published(model.state_dict())
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


def test_a_file_of_hugging_face_gets_the_first_generation_of_the_attention() -> None:
    published = weights_of(golden.load(HERE / "swiftformer/SwiftFormer_XS.npz")[0])
    hugging_face = next(layout for layout in layouts_of(XS) if layout.name == "hugging_face")
    ours = layout_of(XS).map_for(XS).to_ours(published)
    renamed = hugging_face.map_for(XS).to_published(ours)
    assert {
        "swiftformer.patch_embed.patch_embedding.0.weight",
        "swiftformer.encoder.network.0.blocks.0.depth_wise_conv.weight",
        "swiftformer.encoder.network.1.proj.weight",
        "swiftformer.encoder.network.6.blocks.3.local_representation.point_wise_conv2.bias",
        "swiftformer.encoder.network.6.blocks.3.attn.proj.weight",
        "swiftformer.encoder.network.6.blocks.3.layer_scale_1",
        "norm.running_mean",
        "head.weight",
        "dist_head.bias",
    } <= set(renamed)
    model = leanformer.load("swiftformer_xs", weights=renamed)
    assert model.config == replace(XS, attention=Additive(token_norm="ones"))
    same = leanformer.load(replace(XS, attention=Additive(token_norm="ones")), weights=published)
    second = leanformer.load("swiftformer_xs", weights=published)
    x = torch.from_numpy(golden.example_input((1, 3, 224, 224)))
    with torch.inference_mode():
        assert torch.equal(model(x), same(x))
        assert (second(x) - same(x)).abs().max() > 1.0  # the generations are different networks


@pytest.mark.parametrize("name", ["swiftformer_xs", "swiftformer_nano"])
def test_every_norm_folds_exactly(name: str) -> None:
    config: BackboneConfig = replace(find(name), image_size=64)
    model = leanformer.build(config).eval()
    model.load_state_dict(randomised(model))
    x = torch.randn(2, 3, 75, 50)
    with torch.inference_mode():
        before = model(x).numpy()
        report = leanformer.apply(model, leanformer.FoldNorms())[0]
        assert not report.details["frozen"] and not report.details["left"]
        assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules())
        close(model(x), before)
