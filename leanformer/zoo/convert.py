"""Weights from one layout into another: a published file to our names, and back, with what is left out by the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from leanformer.errors import CheckpointError, ConfigError
from leanformer.models import ImageClassifier
from leanformer.zoo.load import load_published
from leanformer.zoo.weights import OURS, Layout, Shapes, layout_of, layouts_of


def to_layout(model: ImageClassifier, name: str) -> dict[str, Tensor]:
    """The weights of a model under the names of a layout: "published", "timm", "ours", ...

    Raises:
        ConfigError: if the model's family has no such layout.
        CheckpointError: if files of that layout cannot hold this model: they would not load back equal.
    """
    layout = find_layout(model, name)
    state = model.state_dict()
    try:
        tensors = layout.map_for(model.config).to_published(state, source=model.name or "the model")
        tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        _check_reads_back(model, tensors, name)
    except (CheckpointError, ConfigError) as error:
        edits = ", ".join(edit.kind for edit in model.edits)
        why = f"it was edited ({edits})" if edits else "files of this layout have no names for all of its parts"
        raise CheckpointError(
            f"{model.name or 'the model'} has no {name} form: {why}; keep it as a run directory"
        ) from error
    return tensors


def find_layout(model: ImageClassifier, name: str) -> Layout:
    """The layout of this name of a model's family.

    Raises:
        ConfigError: if there is none.
    """
    if name == OURS.name:
        return OURS
    known = {layout.name: layout for layout in layouts_of(model.config)}
    if name not in known:
        raise ConfigError(f"backbones of kind {model.config.kind!r} have no layout {name!r}, but {', '.join(known)}")
    return known[name]


def dropped(model: ImageClassifier, shapes: Shapes) -> dict[str, int]:
    """What of a file with these keys does not become part of the model: the last parts of the names, and how many."""
    key_map = layout_of(model.config, shapes).map_for(model.config)
    left = [key for key in shapes if not key_map.match(key)]
    return dict(Counter(key.rpartition(".")[2] for key in left))


def _check_reads_back(model: ImageClassifier, tensors: Mapping[str, Tensor], name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        back = load_published(model.config, tensors, source=f"the {name} form").state_dict()
    state = model.state_dict()
    for key in {**back, **state}:
        if key not in state or key not in back or not _same(state[key], back[key]):
            raise CheckpointError(f"{key} does not come back from it")


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first.cpu().to(second.dtype), second)
