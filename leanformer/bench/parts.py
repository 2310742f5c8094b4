"""Where in a model its multiply-accumulates are spent."""

from __future__ import annotations

import re

from torch import nn

from leanformer.bench.cost import count_modules
from leanformer.layers.block import Block, BlockSequence
from leanformer.models import ImageClassifier

PARTS = ("stem", "downsampling", "attention projections", "attention", "local convolutions", "MLP", "head")
"""What a classifier is made of, in the order of its layers.

Convolutions that gather the neighbourhood of a token are local, in attentions and MLPs as well as beside them, and so
is all of a branch that is made for that.
"""

_PLACE = re.compile(r"backbone\.(?:stem|stages\.\d+\.(?:downsample|blocks\.\d+))")


def count_parts(model: ImageClassifier, image_size: int | tuple[int, int]) -> dict[str, int]:
    """The multiply-accumulates of each of the `PARTS` on one image of `image_size`."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    parts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for name, macs in count_modules(model, image_size).items():
        parts[part_of(modules, name)] += macs
    return parts


def part_of(modules: dict[str, nn.Module], name: str) -> str:
    """Which of the `PARTS` the module of that name belongs to."""
    if isinstance(modules[name], BlockSequence):  # the similarities of tokens to merge
        return "attention"
    found = _PLACE.match(name)
    if found is None:  # what follows the backbone
        return "head"
    place = found.group()
    if place.endswith((".stem", ".downsample")):
        return "stem" if place.endswith(".stem") else "downsampling"
    slot = name.removeprefix(f"{place}.").partition(".")[0] if isinstance(modules[place], Block) else "local"
    if slot not in ("attn", "mlp") or getattr(modules[name], "groups", 1) > 1:
        return "local convolutions"
    if slot == "mlp":
        return "MLP"
    return "attention" if hasattr(modules[name], "macs") else "attention projections"
