"""Which registered model a published checkpoint looks like, for the error that says so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple

import torch

from leanformer.checkpoints.keymap import KeyMap
from leanformer.checkpoints.strict import COUNTERS
from leanformer.errors import ConfigError, LeanformerError
from leanformer.models import ImageClassifier, find, list_models
from leanformer.models.backbone import BackboneConfig, StagedConfig
from leanformer.models.vit import ViT
from leanformer.zoo.weights import Layout, Shapes, layout_of

_COUNTERS = tuple(f".{name}" for name in (*COUNTERS, "warm", "iter", "total_step"))
_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)")
_BUILT = 4
"""Models built whole to find the one that a file is of."""


def published_shapes(config: BackboneConfig, layout: Layout | None = None) -> dict[str, tuple[int, ...]]:
    """The keys of a model in a file of this layout (None: the one its authors publish) and their shapes, counters left
    out."""
    layout = layout or layout_of(config)
    with torch.device("meta"):
        state = ImageClassifier(config).state_dict()
    values = {key: value for key, value in state.items() if not key.endswith(_COUNTERS)}
    return {key: tuple(value.shape) for key, value in layout.map_for(config).to_published(values).items()}


def foreign_keys(key_map: KeyMap, expected: Iterable[str], shapes: Shapes) -> list[str]:
    """The keys of a file that are none of those expected; keys that the key map drops are none of them."""
    known = set(expected)
    return [key for key in shapes if key not in known and not _is_dropped(key_map, key, shapes)]


def looks_like(shapes: Shapes) -> str | None:
    """The name of the registered model whose published keys and shapes are nearest to these, or None if none is near.

    Of the models of the nearest width and depth, the first block of each stage tells which are worth building whole.
    """
    candidates = _candidates(shapes)
    if len(candidates) > 1:
        scores = {name: _score(_shallow(find(name)), first) for name, first in candidates.items()}
        best = max(scores.values())
        candidates = {name: first for name, first in candidates.items() if scores[name] == best}
    whole = {name: _score(find(name), shapes) for name in list(candidates)[:_BUILT]}
    found = max(whole, key=lambda name: whole[name], default=None)
    return found if found is not None and whole[found][0] > 0.5 else None


def _score(config: BackboneConfig, shapes: Shapes) -> tuple[float, bool]:
    """The share of keys that a file and a model have alike, and whether the model is meant as it is, not fitted."""
    try:
        layout = layout_of(config, shapes)
        fitted = layout.adapt(config, shapes)
        expected = published_shapes(fitted, layout)
    except LeanformerError:
        return 0.0, False
    same = sum(shapes.get(key) == shape for key, shape in expected.items())
    return same / max(len(expected), sum(not key.endswith(_COUNTERS) for key in shapes), 1), fitted == config


def _candidates(shapes: Shapes) -> dict[str, Shapes]:
    """The models nearest to a file in width and depth, of the families whose key map knows it, each with what the file
    has outside of blocks and in the first block of each stage."""
    sizes = {size for shape in shapes.values() for size in shape}
    outlines: dict[Layout, _Outline] = {}
    distances: dict[str, tuple[int, int]] = {}
    firsts: dict[str, Shapes] = {}
    for name in list_models():
        config = find(name)
        try:
            layout = layout_of(config, shapes)
            if layout not in outlines:
                outlines[layout] = _outline(layout.map_for(config), shapes)
        except LeanformerError:
            continue
        known, depths, first = outlines[layout]
        if known < 0.5:
            continue
        missing = sum(width not in sizes for width in _numbers(config, "dims", "dim"))
        pairs = zip_longest(depths, _numbers(config, "depths", "depth"), fillvalue=0)
        distances[name] = missing, sum(abs(found - depth) for found, depth in pairs)
        firsts[name] = first
    nearest = min(distances.values(), default=None)
    return {name: firsts[name] for name, distance in distances.items() if distance == nearest}


class _Outline(NamedTuple):
    known: float  # share of a file's keys that a key map knows
    depths: list[int]  # blocks of each stage
    first: Shapes  # keys outside of blocks, and of the first block of each stage


def _outline(key_map: KeyMap, shapes: Shapes) -> _Outline:
    last: dict[int, int] = {}
    first, unknown = {}, 0
    for key, shape in shapes.items():
        ours = key_map.match(key)
        unknown += ours is None
        blocks = [(int(place[1]), int(place[2])) for name in ours or () if (place := _BLOCK.search(name))]
        for stage, block in blocks:
            last[stage] = max(last.get(stage, 0), block + 1)
        if all(block == 0 for _, block in blocks):
            first[key] = shape
    depths = [last.get(stage, 0) for stage in range(max(last, default=-1) + 1)]
    return _Outline(1 - unknown / max(len(shapes), 1), depths, first)


def _shallow(config: BackboneConfig) -> BackboneConfig:
    """The config with one block in each stage, where its fields allow that."""
    try:
        if isinstance(config, StagedConfig):
            return replace(config, depths=(1,) * len(config.depths))
        if isinstance(config, ViT):
            return replace(config, depth=1, removed=tuple(block for block in config.removed if block == 0))
    except ConfigError:
        pass
    return config


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
