"""Which registered model a published checkpoint looks like, for the error that says so."""

from __future__ import annotations

import torch

from leanformer.checkpoints.keymap import KeyMap
from leanformer.checkpoints.strict import COUNTERS
from leanformer.errors import CheckpointError, LeanformerError
from leanformer.models import ImageClassifier, find, list_models
from leanformer.models.backbone import BackboneConfig
from leanformer.zoo.weights import Layout, Shapes, layout_of

_COUNTERS = tuple(f".{name}" for name in (*COUNTERS, "warm", "iter", "total_step"))


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
    for name in list_models():
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


def _is_dropped(key_map: KeyMap, key: str, shapes: Shapes) -> bool:
    try:
        ours = key_map.rename([key])[key]
    except CheckpointError:
        return False
    if any(name.endswith(_COUNTERS) for name in ours):  # a counter belongs to the norm or batch norm it counts for
        return any(other.startswith(key.rpartition(".")[0] + ".") for other in shapes if not other.endswith(_COUNTERS))
    return not ours
