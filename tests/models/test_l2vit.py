"""L2ViT beyond its published forms: other attentions in either place, what it cannot take, and what folds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import leanformer
from leanformer.errors import ConfigError
from leanformer.layers.attention import NormalizedLinear, SimplifiedLinear
from leanformer.layers.attention.normalized import NormalizedKernel
from leanformer.layers.attention.softmax import SoftmaxKernel
from leanformer.layers.norm import Norms, PRepBN
from leanformer.layers.site import Site
from leanformer.models import find


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"window_size": (4, (4, -1))}, r"window_size must be at least 1, got \(4, \(4, -1\)\)"),
        ({"head_dim": -1}, "head_dim must be at least 0, got -1"),
        ({"dims": (48, 97)}, "dim 97 is not divisible by its num_heads 4"),
    ],
)
def test_a_value_that_it_cannot_take_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        leanformer.build("l2vit_nano", **changes)


def test_a_floor_that_divides_by_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"floor must be positive.*got 0.0"):
        NormalizedLinear(floor=0.0)


def test_blocks_take_turns_and_one_attention_serves_both_places() -> None:
    kernels = [block.attn.body.kernel for stage in find("l2vit_nano").build().stages for block in stage.blocks]
    assert [type(kernel) for kernel in kernels] == [SoftmaxKernel, NormalizedKernel] * 2
    blocks = replace(find("l2vit_nano"), attention=SimplifiedLinear()).build().stages[0].blocks
    assert [block.attn.body.kernel.key_position.grid for block in blocks] == [(4, 4), (16, 16)]
    assert [block.attn.region is None for block in blocks] == [False, True]


def test_what_cannot_fold_is_frozen_and_reported_and_the_rest_folds_exactly_at_odd_sizes() -> None:
    config = replace(find("l2vit_nano"), norms=Norms(block=PRepBN()))
    model = leanformer.build(config).train()
    for _ in range(3):
        model(torch.randn(8, 3, 32, 32) * 2 + 1)
    for module in model.eval().modules():
        if hasattr(module, "scheduled"):
            module.set_scheduled(0.0)
    batches = [torch.randn(2, 3, *size) for size in ((32, 32), (37, 75))]
    with torch.inference_mode():
        before = [model(batch) for batch in batches]
    report = leanformer.apply(model, leanformer.FoldNorms())[0]
    padded = [f"backbone.stages.{stage}.blocks.1.local.{norm}" for stage in (0, 1) for norm in ("norm", "body.bn")]
    assert sorted(report.details["frozen"]) == sorted(padded)
    assert len(report.details["folded"]) == 2 + 1 + 8 + 1 + 1  # stem's batch norms, stem, blocks, downsampling, head
    with torch.inference_mode():
        for batch, expected in zip(batches, before, strict=True):
            torch.testing.assert_close(model(batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normalised_attention_survives_half_precision_with_many_large_tokens(dtype: torch.dtype) -> None:
    kernel = NormalizedLinear().kernel(Site(dim=32, num_heads=2, grid=(64, 65)))
    q, k = (torch.randn(1, 4160, 32) * 300 for _ in range(2))
    v = torch.randn(1, 4160, 32)
    expected = kernel(q, k, v, (64, 65), (64, 65))
    out = kernel(q.to(dtype), k.to(dtype), v.to(dtype), (64, 65), (64, 65))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.02 * expected.abs().max().item())
