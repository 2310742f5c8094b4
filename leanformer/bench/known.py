"""The cost of every registered model, counted once and shipped, so that listing them all takes no minute."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import torch

from leanformer.bench.cost import count_cost
from leanformer.models import ImageClassifier
from leanformer.zoo import find

TABLE = "costs.json"
"""Beside this file, written by tools/count_costs.py; a test counts again."""


class KnownCost(NamedTuple):
    """Parameters, and multiply-accumulates on one image of the model's own size."""

    parameters: int
    macs: int


def known_cost(name: str) -> KnownCost:
    """The cost of the registered model `name`: from the table, or counted for a model that is not in it."""
    entry = _table().get(name.partition(".")[0])
    return count_registered(name) if entry is None else KnownCost(*entry)


def count_registered(name: str) -> KnownCost:
    """The cost of the registered model `name`, counted."""
    config = find(name)
    with torch.device("meta"):
        cost = count_cost(ImageClassifier(config), config.image_grid)
    return KnownCost(cost.parameters, cost.macs)


@cache
def _table() -> dict[str, list[int]]:
    return json.loads((files("leanformer.bench") / TABLE).read_text(encoding="utf-8"))
