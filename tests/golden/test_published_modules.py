"""Single modules and norms, step by step in train mode, equal the published ones, in the corners that whole models do
not show."""

from __future__ import annotations

from pathlib import Path

import golden
import numpy as np
import pytest
import torch

import leanformer
from leanformer.checkpoints.keymap import KeyMap, Rename
from leanformer.layers.attention import FocusedLinear, SimplifiedLinear, Softmax
from leanformer.layers.attention.focused import FocusedKernel
from leanformer.layers.block import Block
from leanformer.layers.branch import Branch
from leanformer.layers.mlp import MLP
from leanformer.layers.norm import LayerNorm, PRepBN, RepBN
from leanformer.layers.region import Window
from leanformer.layers.site import Site
from leanformer.zoo.layouts.common import block_rules
from leanformer.zoo.weights import layout_of

HERE = Path(__file__).parent
ATTENTION = KeyMap(*block_rules("block", "block"), name="attention")


def close(actual: torch.Tensor, expected: np.ndarray, rtol: float = 1e-5) -> None:
    scale = max(float(np.abs(expected).max()), 1e-30)
    np.testing.assert_allclose(actual.detach().numpy() / scale, expected / scale, rtol=0, atol=rtol)


def tensors(entries: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in entries.items()}


def load_attention(mixer: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    prefix = "block.attn.body."
    ours = ATTENTION.to_ours({f"block.attn.{key}": value for key, value in weights.items()})
    mixer.load_state_dict({key.removeprefix(prefix): value for key, value in ours.items()})


@pytest.mark.parametrize(
    "case", ["swin_kv", "swin_kv_tiny", "swin_kv_dead", "swin_qk", "swin_qk_tiny", "swin_qk_dead", "deit"]
)
def test_simplified_attention_equals_slab(case: str) -> None:
    meta, arrays = golden.load(HERE / "slab/modules/sla.npz")
    shape = meta["cases"][case]["input_shape"]
    weights = tensors({k: golden.fill(k, tuple(s)) for k, s in meta["keys"][case].items()})
    if case.endswith("tiny"):
        for key in ("qkv.weight", "qkv.bias", "positional_encoding"):
            weights[key] *= 1e-4
    if case.endswith("dead"):
        weights["qkv.bias"][: shape[2]] -= 100
    side = int(shape[1] ** 0.5)
    mixer = SimplifiedLinear().build(Site(dim=shape[2], num_heads=2, grid=(side, side)))
    load_attention(mixer, weights)
    x = torch.from_numpy(golden.example_input(shape)).requires_grad_()
    output = mixer(x, (side, side))
    close(output, arrays[f"extra_{case}_output"])
    output.square().mean().backward()
    close(x.grad, arrays[f"extra_{case}_grad_x"], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "attention", "bias"),
    [
        ("module_fla_swin", FocusedLinear(), True),
        ("module_fla_swin_f4_k3", FocusedLinear(power=4, local_kernel=3), True),
        ("module_fla_swin_f2_k7_nobias", FocusedLinear(power=2, local_kernel=7), False),
    ],
)
def test_focused_attention_equals_flatten(name: str, attention: FocusedLinear, bias: bool) -> None:
    meta, arrays = golden.load(HERE / f"flatten/{name}.npz")
    mixer = attention.build(Site(dim=48, num_heads=3, grid=(8, 8), qkv_bias=bias))
    load_attention(mixer, tensors(golden.state_dict(meta)))
    x = torch.from_numpy(golden.example_input(meta["input_shape"])).requires_grad_()
    output = mixer(x, (8, 8))
    close(output, arrays["output"])
    output.square().mean().backward()
    close(x.grad, arrays["extra_input_grad"], rtol=1e-4)


def test_focused_attention_treats_dead_tokens_like_flatten() -> None:
    meta, arrays = golden.load(HERE / "flatten/module_fla_cswin_dead.npz")
    weights = tensors(golden.state_dict(meta))
    kernel = FocusedKernel(Site(dim=32, num_heads=2, grid=(6, 6)))
    kernel.load_state_dict(
        {
            "scale": weights["scale"],
            "key_position.table": weights["positional_encoding"],
            "local.conv.weight": weights["dwc.weight"],
            "local.conv.bias": weights["dwc.bias"],
        }
    )
    q, k, v = torch.from_numpy(arrays["extra_input"])
    image = v.transpose(1, 2).unflatten(2, (6, 6))
    lepe = torch.nn.functional.conv2d(image, weights["get_v.weight"], weights["get_v.bias"], padding=1, groups=32)
    close(kernel(q, k, v, (6, 6), (6, 6)) + lepe.flatten(2).transpose(1, 2), arrays["output"])


def test_window_attention_equals_swin() -> None:
    meta, arrays = golden.load(HERE / "flatten/module_window_attn_swin.npz")
    mixer = Softmax(relative_position=True).build(Site(dim=48, num_heads=3, grid=(7, 7)))
    load_attention(mixer, tensors(golden.state_dict(meta)))
    close(mixer(torch.from_numpy(golden.example_input(meta["input_shape"])), (7, 7)), arrays["output"])


@pytest.mark.parametrize("kind", ["S", "L"])
def test_a_shifted_block_equals_swin_and_the_unmasked_linear_one_flatten(kind: str) -> None:
    meta, arrays = golden.load(HERE / f"flatten/module_block_swin_shifted_{kind}.npz")
    attention = Softmax(relative_position=True) if kind == "S" else FocusedLinear()
    norm = LayerNorm(eps=1e-5)
    body = attention.build(Site(dim=48, num_heads=3, grid=(7, 7)))
    block = Block(
        attn=Branch(body, norm=norm.build(48), region=Window(7, 3, (14, 14), masked=kind == "S")),
        mlp=Branch(MLP(48, 192), norm=norm.build(48)),
    )
    ours = ATTENTION.to_ours({f"block.{key}": value for key, value in tensors(golden.state_dict(meta)).items()})
    block.load_state_dict({key.removeprefix("block."): value for key, value in ours.items()})
    x = torch.from_numpy(golden.example_input(meta["input_shape"])).requires_grad_()
    output = block(x, (14, 14))
    close(output, arrays["output"])
    output.square().mean().backward()
    close(x.grad, arrays["extra_input_grad"], rtol=1e-4)


def test_rep_bn_equals_slab_in_eval_and_train_mode() -> None:
    _, arrays = golden.load(HERE / "slab/modules/repbn.npz")

    def fresh() -> torch.nn.Module:
        norm = RepBN().build(12)
        golden.fill_model(norm)
        return norm

    norm = fresh().eval()
    x = torch.from_numpy(golden.example_input((3, 6, 12))) + 0.2
    close(norm(x), arrays["extra_eval_output"])
    norm.bn.running_var *= 1e-5
    close(norm(x), arrays["extra_eval_smallvar_output"])
    norm = fresh().train()
    x = (torch.from_numpy(golden.example_input((3, 6, 12))) * 0.005 + 0.2).requires_grad_()
    output = norm(x)
    close(output, arrays["extra_train_output"])
    output.square().mean().backward()
    close(x.grad, arrays["extra_train_grad_x"], rtol=1e-4)
    close(norm.alpha.grad, arrays["extra_train_grad_alpha"], rtol=1e-3)
    close(norm.bn.running_mean, arrays["extra_train_bn.running_mean"])
    close(norm.bn.running_var, arrays["extra_train_bn.running_var"])


NORM = KeyMap(Rename("norm1.{rest}", "start.{rest}"), Rename("norm2.{rest}", "rep.{rest}"), name="norm")


@pytest.mark.parametrize("case", ["A", "B"])
def test_progressive_norm_follows_slab_step_by_step(case: str) -> None:
    """Warm-up, blending, the end of the schedule, evaluation and recalibration."""
    meta, arrays = golden.load(HERE / "slab/modules/linearnorm.npz")
    spec = meta["cases"][case]
    norm = PRepBN(start=LayerNorm(eps=spec["ln_eps"])).build(spec["dim"])
    ours = NORM.to_ours(tensors(golden.state_dict(meta)))
    norm.load_state_dict({**norm.state_dict(), **ours})
    norm.train()
    for t, step in enumerate(spec["steps"]):
        key = f"extra_{case}{t}_"
        share = float(arrays[f"{key}lambda"])
        norm.set_scheduled(2.0 if np.isnan(share) else share)
        norm.zero_grad(set_to_none=True)
        x = torch.from_numpy(golden.example_input(step["shape"])) * step["scale"] + step["shift"]
        x.requires_grad_()
        output = norm(x)
        close(output, arrays[f"{key}output"])
        output.square().mean().backward()
        close(x.grad, arrays[f"{key}grad_x"], rtol=1e-4)
        for name, parameter in norm.named_parameters():
            expected = arrays.get(f"{key}grad_{NORM.published_name(name)[0]}")
            if expected is not None and not np.isnan(expected).any():
                close(torch.zeros(()) if parameter.grad is None else parameter.grad, expected, rtol=1e-3)
        close(norm.rep.bn.running_mean, arrays[f"{key}norm2.bn.running_mean"])
        close(norm.rep.bn.running_var, arrays[f"{key}norm2.bn.running_var"])
    norm.eval()
    close(norm(torch.from_numpy(golden.example_input((2, 6, spec["dim"]))) + 0.2), arrays[f"extra_{case}eval_output"])
    norm.rep.bn.train()
    for t in range(2):
        x = torch.from_numpy(golden.example_input((3, 5, spec["dim"]))) * (1 + t) + 0.1 * t
        with torch.no_grad():
            close(norm(x), arrays[f"extra_{case}cal{t}_output"])


@pytest.mark.parametrize(("case", "share"), [("full", 1.0), ("threequarter", 0.75), ("zero", 0.0)])
def test_slab_deit_trains_like_the_published_model(case: str, share: float) -> None:
    meta, arrays = golden.load(HERE / "slab/modules/train_slab_deit_t.npz")
    weights = tensors({key: golden.fill(key, tuple(shape), "", 0.6) for key, shape in meta["keys"].items()})
    model = leanformer.load("slab_deit_tiny", weights=weights).train()
    for module in model.modules():
        if getattr(module, "scheduled", None) == "norm_progress":
            module.set_scheduled(share)
    output = model(torch.from_numpy(golden.example_input(meta["input_shape"])))
    close(output, arrays[f"extra_{case}_output"], rtol=1e-4)
    output.square().mean().backward()
    key_map = layout_of(model.config).map_for(model.config)
    grads = key_map.to_published({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
    unused = float("nan") if share else 0.0  # the published norm goes on computing its LayerNorm at share 0
    norms = [grads[key].norm().item() if key in grads else unused for key in meta["param_order"]]
    expected = np.nan_to_num(arrays[f"extra_{case}_grad_norms"]) if not share else arrays[f"extra_{case}_grad_norms"]
    np.testing.assert_allclose(norms, expected, rtol=2e-3, atol=1e-6 * np.nanmax(expected))
    for place, norm in (("norm", model.head.norm), ("blocks.11.norm2", model.backbone.stages[0].blocks[11].mlp.norm)):
        close(norm.rep.bn.running_mean, arrays[f"extra_{case}_{place}_running_mean"], rtol=1e-4)
        close(norm.rep.bn.running_var, arrays[f"extra_{case}_{place}_running_var"], rtol=1e-4)
