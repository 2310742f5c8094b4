"""Diluted DeiTs and blocks equal the published ones at every share: outputs, gradient norms, training mode."""

from __future__ import annotations

import golden
import numpy as np
import pytest
import torch
from published import HERE, close, gradient_norms, weights_of
from torch import Tensor, nn

import leanformer
from leanformer.edits import DiluteAttention, RemoveAttention
from leanformer.layers.attention import Softmax
from leanformer.layers.block import Block, pre_norm_block
from leanformer.layers.branch import DilutedBranch
from leanformer.layers.mlp import MLP
from leanformer.layers.norm import LayerNorm
from leanformer.layers.site import Site
from leanformer.models import ImageClassifier

TINY_SETS = {"024": (0, 2, 4), "0246": (0, 2, 4, 6)}
BASE = (0, 1, 3, 4, 6, 9)
DILUTED = {
    **{
        f"tiny_lambda_{name}_lambda{share}": ("tiny", blocks)
        for name, blocks in TINY_SETS.items()
        for share in ("1", "05", "0")
    },
    "tiny_lambda_024_epoch150": ("tiny", (0, 2, 4)),
    **{f"small_lambda_024_lambda{share}": ("small", (0, 2, 4)) for share in ("1", "05", "0")},
    **{f"base_attn_013469_lambda{share}": ("base", BASE) for share in ("1", "05", "0")},
    "base_lambda_013469_lambda05": ("base", BASE),
}
"""Golden files, and what is diluted in them."""
SHARES = {"lambda1": 1.0, "lambda05": 0.5, "lambda0": 0.0, "epoch150": 1 - 150 / 299}
QUICK = {"tiny_lambda_0246_lambda05", "tiny_lambda_024_epoch150", "tiny_lambda_024_lambda0"}
PARAMS = [pytest.param(path, id=path, marks=() if path in QUICK else pytest.mark.slow) for path in DILUTED]


def set_share(model: nn.Module, share: float) -> None:
    for module in model.modules():
        if isinstance(module, DilutedBranch):
            module.set_scheduled(share)


def loaded(path: str, size: str) -> tuple[ImageClassifier, dict, dict]:
    """The plain DeiT with a file's weights, and what the file says."""
    meta, expected = golden.load(HERE / f"attention_removal/{path}.npz")
    return leanformer.load(f"deit_{size}", weights=weights_of(meta)), meta, expected


def check(model: ImageClassifier, meta: dict, expected: dict) -> None:
    """Published gradients of attention that no longer counts are zero; ours are none."""
    output = model(torch.from_numpy(golden.example_input(meta["input_shape"])))
    close(output, expected["output"])
    norms = np.nan_to_num(gradient_norms(model, output, meta), nan=0.0)
    largest = expected["grad_norms"].max()
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=1e-3, atol=1e-8 * largest)


@pytest.mark.parametrize("path", PARAMS)
def test_a_diluted_deit_equals_the_published_one(path: str) -> None:
    size, blocks = DILUTED[path]
    model, meta, expected = loaded(path, size)
    leanformer.apply(model, DiluteAttention(blocks=blocks))
    set_share(model, SHARES[path.rpartition("_")[2]])
    check(model, meta, expected)


@pytest.mark.parametrize(
    ("path", "diluted", "removed"),
    [
        ("tiny_lambda_prune02_done24_lambda05", (0, 2), (4,)),  # a block in both lists is diluted
        pytest.param("tiny_lambda_prune_done0246_lambda1", (), (0, 2, 4, 6), marks=pytest.mark.slow),
    ],
)
def test_dilution_and_removal_together_equal_the_published_ones(
    path: str, diluted: tuple[int, ...], removed: tuple[int, ...]
) -> None:
    model, meta, expected = loaded(path, "tiny")
    leanformer.apply(model, RemoveAttention(blocks=removed))
    if diluted:
        leanformer.apply(model, DiluteAttention(blocks=diluted))
        set_share(model, 0.5)
    check(model, meta, expected)


def test_a_folded_deit_equals_the_published_one_to_the_last_bit_of_ours() -> None:
    """DeiT-T without four attentions: the tokens end at a sixteenth of their size."""
    meta, expected = golden.load(HERE / "attention_removal/tiny_0246_shrink.npz")
    image = torch.from_numpy(golden.example_input(meta["input_shape"]))
    doubling = leanformer.load("deit_tiny_removed_0246", weights=weights_of(meta))
    folded = leanformer.build("deit_tiny").eval()
    folded.load_state_dict({**folded.state_dict(), **doubling.state_dict()})
    leanformer.apply(folded, RemoveAttention(blocks=(0, 2, 4, 6), fold=True))
    with torch.inference_mode():
        ours = folded(image)
        assert torch.equal(ours, doubling(image))
        tokens, sixteenth = doubling.backbone(image)[0], folded.backbone(image)[0]
    close(ours, expected["output"])
    assert torch.equal(16 * sixteenth, tokens)


class Keep(nn.Module):
    """Stochastic depth that drops the samples it is told to."""

    def __init__(self, kept: np.ndarray) -> None:
        super().__init__()
        self.factor = torch.from_numpy(kept.astype(np.float32))[:, None, None] / 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor if self.training else x


RENAMED = {"norm1": "attn.norm", "attn": "attn.body", "norm2": "mlp.norm", "mlp": "mlp.body"}


def published_block(meta: dict) -> Block:
    site = Site(dim=48, num_heads=3, grid=(4, 4), prefix_tokens=1)
    block = pre_norm_block(48, Softmax().build(site), MLP(48, 192), LayerNorm(eps=1e-6), drop_path=0.5)
    weights = {}
    for key, shape in meta["keys_filled"].items():
        part, _, rest = key.partition(".")
        weights[f"{RENAMED[part]}.{rest}"] = torch.from_numpy(golden.fill(key, tuple(shape)))
    block.load_state_dict(weights)
    return block


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("share", ["1", "0.5", "0.25", "0"])
@pytest.mark.parametrize("code", ["v4", "small"])
def test_a_diluted_block_equals_the_published_one_in_both_modes(code: str, share: str, mode: str) -> None:
    meta, expected = golden.load(HERE / "attention_removal/module_block.npz")
    block = published_block(meta)
    block.attn = diluted = DilutedBranch(block.attn)  # type: ignore[arg-type]
    diluted.drop_path = Keep(expected["extra_train_keep_attn"])  # type: ignore[assignment]
    block.mlp.drop_path = Keep(expected["extra_train_keep_mlp"])  # type: ignore[assignment]
    diluted.set_scheduled(float(share))
    output = block.train(mode == "train")(torch.from_numpy(golden.example_input((8, 17, 48))), (4, 4))
    close(output, expected[f"extra_{code}_{mode}_lambda{share}"])
