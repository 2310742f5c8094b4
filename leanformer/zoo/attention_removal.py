"""Attention removal: DeiT without the attention of chosen blocks ("MLP Can Be A Good Transformer Learner",
https://arxiv.org/abs/2404.05657, CVPR 2024).

The released files were trained while the chosen attention faded out, and may still hold what is left of it; those keys
are dropped, of the chosen blocks alone.
"""

from __future__ import annotations

from dataclasses import replace

from leanformer.models.registry import register
from leanformer.models.vit import ViT, deit_base, deit_small, deit_tiny
from leanformer.zoo.weights import Weights, publish

PAGE = "https://github.com/sihaoevery/lambda_vit"


@register
def deit_base_removed_01346() -> ViT:
    """DeiT-B without the attention of blocks 0, 1, 3, 4 and 6."""
    return replace(deit_base(), removed=(0, 1, 3, 4, 6))


@register
def deit_base_removed_013469() -> ViT:
    """DeiT-B without the attention of half of its blocks: 0, 1, 3, 4, 6 and 9."""
    return replace(deit_base(), removed=(0, 1, 3, 4, 6, 9))


@register
def deit_small_removed_024() -> ViT:
    """DeiT-S without the attention of blocks 0, 2 and 4."""
    return replace(deit_small(), removed=(0, 2, 4))


@register
def deit_small_removed_0246() -> ViT:
    """DeiT-S without the attention of blocks 0, 2, 4 and 6."""
    return replace(deit_small(), removed=(0, 2, 4, 6))


@register
def deit_tiny_removed_024() -> ViT:
    """DeiT-T without the attention of blocks 0, 2 and 4."""
    return replace(deit_tiny(), removed=(0, 2, 4))


@register
def deit_tiny_removed_0246() -> ViT:
    """DeiT-T without the attention of blocks 0, 2, 4 and 6."""
    return replace(deit_tiny(), removed=(0, 2, 4, 6))


# The page reports two figures for each, of two versions of torch; these are of the newer, 1.12.1.
for _name, _top1 in (
    ("deit_base_removed_01346", 81.77),
    ("deit_base_removed_013469", 81.46),
    ("deit_small_removed_024", 80.33),
    ("deit_small_removed_0246", 79.89),
    ("deit_tiny_removed_024", 72.79),
    ("deit_tiny_removed_0246", 71.88),
):
    publish(f"{_name}.in1k", Weights(page=PAGE, license="BSD-2-Clause", reported={"top1": _top1}))
