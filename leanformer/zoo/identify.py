"""Which registered model a published checkpoint looks like, for the error that says so."""

from __future__ import annotations

import re
from itertools import zip_longest

import torch

from leanformer.checkpoints.keymap import KeyMap
from leanformer.checkpoints.strict import COUNTERS
from leanformer.errors import LeanformerError
from leanformer.models import ImageClassifier, find, list_models
from leanformer.models.backbone import BackboneConfig
from leanformer.zoo.weights import Layout, Shapes, layout_of

_COUNTERS = tuple(f".{name}" for name in (*COUNTERS, "warm", "iter", "total_step"))
_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)")
_BUILT = 12
"""Models built on the meta device to find the one that a file is of."""


def published_shapes(config: BackboneConfig, layout: Layout | None = None) -> dict[str, tuple[int, ...]]:
    """The keys of a model in a file of this layout (None: the one its authors publish) and their shapes, counters left
    out."""
    layout = layout or layout_of(config)
    with torch.device("meta"):
        state = ImageClassifier(config).state_dict()
    values = {key: value for key, value in state.items() if not key.endswith(_COUNTERS)}
    return {key: tuple(value.shape) for key, value in layout.map_for(config).to_published(values).items()}


def foreign_keys(config: BackboneConfig, layout: Layout, shapes: Shapes) -> list[str]:
    """The keys that the model of `config` has no place for; keys that the layout drops are none of them."""
    key_map, expected = layout.map_for(config), published_shapes(config, layout)
    return [key for key in shapes if key not in expected and not _is_dropped(key_map, key, shapes)]


def looks_like(shapes: Shapes) -> str | None:
    """The name of the registered model whose published keys and shapes are nearest to these, or None if none is
    near."""
    best, best_score = None, 0.5
    for name in _candidates(shapes):
        try:
            layout = layout_of(find(name), shapes)
            expected = published_shapes(layout.adapt(find(name), shapes), layout)
        except LeanformerError:
            continue
        same = sum(shapes.get(key) == shape for key, shape in expected.items())
        score = same / max(len(expected), sum(not key.endswith(_COUNTERS) for key in shapes))
        if score > best_score:
            best, best_score = name, score
    return best


def _candidates(shapes: Shapes) -> list[str]:
    """The few names worth building: of families whose key map knows the file, those nearest in width and depth."""
    sizes = {size for shape in shapes.values() for size in shape}
    read: dict[Layout, tuple[float, list[int]]] = {}
    ranked = []
    for name in list_models():
        config = find(name)
        widths = _numbers(config, "dims", "dim")
        try:
            layout = layout_of(config, shapes)
            if layout not in read:
                read[layout] = _outline(layout.map_for(config), shapes)
        except LeanformerError:
            continue
        known, depths = read[layout]
        if known < 0.5:
            continue
        distance = sum(abs(a - b) for a, b in zip_longest(depths, _numbers(config, "depths", "depth"), fillvalue=0))
        ranked.append((sum(width not in sizes for width in widths), distance, name))
    return [name for *_, name in sorted(ranked)[:_BUILT]]


def _outline(key_map: KeyMap, shapes: Shapes) -> tuple[float, list[int]]:
    """The share of a file's keys that a key map knows, and the number of blocks in each stage that they tell of."""
    found = [key_map.match(key) for key in shapes]
    last: dict[int, int] = {}
    for ours in found:
        for stage, block in (place.groups() for name in ours or () for place in _BLOCK.finditer(name)):
            last[int(stage)] = max(last.get(int(stage), 0), int(block) + 1)
    known = sum(ours is not None for ours in found) / max(len(found), 1)
    return known, [last.get(stage, 0) for stage in range(max(last, default=-1) + 1)]


def _numbers(config: BackboneConfig, *names: str) -> tuple[int, ...]:
    """The first field of these names that a config has, as a tuple."""
    value = next((getattr(config, name) for name in names if hasattr(config, name)), ())
    return value if isinstance(value, tuple) else (value,)


def _is_dropped(key_map: KeyMap, key: str, shapes: Shapes) -> bool:
    ours = key_map.match(key)
    if ours is None:
        return False
    if any(name.endswith(_COUNTERS) for name in ours):  # a counter belongs to the norm or batch norm it counts for
        return any(other.startswith(key.rpartition(".")[0] + ".") for other in shapes if not other.endswith(_COUNTERS))
    return not ours
