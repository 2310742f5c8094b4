"""SwiftFormer (https://arxiv.org/abs/2303.15446, ICCV 2023): the published sizes and their weights.

All were trained with a teacher and have two classifiers; `distilled=False` builds the form with one. The weights on the
page are those of July 2023, which replaced the first ones together with the normalisation in the attention; files on
Hugging Face are older and get `Additive(token_norm="ones")` when they are loaded.
"""

from __future__ import annotations

from dataclasses import replace

from leanformer.models.registry import register
from leanformer.models.swiftformer import SwiftFormer
from leanformer.zoo.weights import Weights, publish

PAGE = "https://github.com/Amshaker/SwiftFormer"


@register
def swiftformer_xs() -> SwiftFormer:
    """SwiftFormer-XS, two classifiers."""
    return SwiftFormer()


@register
def swiftformer_s() -> SwiftFormer:
    """SwiftFormer-S, two classifiers."""
    return replace(swiftformer_xs(), depths=(3, 3, 9, 6), dims=(48, 64, 168, 224))


@register
def swiftformer_l1() -> SwiftFormer:
    """SwiftFormer-L1, two classifiers."""
    return replace(swiftformer_xs(), depths=(4, 3, 10, 5), dims=(48, 96, 192, 384))


@register
def swiftformer_l3() -> SwiftFormer:
    """SwiftFormer-L3, two classifiers."""
    return replace(swiftformer_xs(), depths=(4, 4, 12, 6), dims=(64, 128, 320, 512))


for _name, _top1 in (
    ("swiftformer_xs", 75.7),
    ("swiftformer_s", 78.5),
    ("swiftformer_l1", 80.9),
    ("swiftformer_l3", 83.0),
):
    publish(f"{_name}.in1k", Weights(page=PAGE, license="Apache-2.0", reported={"top1": _top1}))
