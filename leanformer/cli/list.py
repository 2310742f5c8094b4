"""`leanformer list`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from leanformer.cli.common import print_json


@dataclass(frozen=True, kw_only=True)
class List:
    """List models (and recipes) with their size and published accuracy."""

    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*"
    """Shell-style pattern of names, such as 'slab_*'."""
    recipes: bool = False
    """List recipes instead."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print a line for each."""
        from leanformer.errors import ConfigError

        rows = _recipes() if self.recipes else _models(self.pattern)
        if not rows:
            raise ConfigError(f"no model's name matches {self.pattern!r}; `leanformer list` shows them all")
        if self.json:
            print_json(rows)
            return 0
        widths = [
            max(len(_cell(row[key])) for row in [dict(zip(rows[0], rows[0], strict=True)), *rows]) for key in rows[0]
        ]
        for row in [dict(zip(rows[0], rows[0], strict=True)), *rows]:
            print(
                "  ".join(_cell(value).ljust(width) for value, width in zip(row.values(), widths, strict=True)).rstrip()
            )
        return 0


def _models(pattern: str) -> list[dict[str, object]]:
    import torch

    from leanformer.api import list_models
    from leanformer.models import ImageClassifier, find
    from leanformer.models.registry import describe
    from leanformer.zoo.weights import published

    rows = []
    for name in list_models(pattern):
        config, weights = find(name), published(name)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in ImageClassifier(config).parameters())
        size = config.image_grid
        row: dict[str, object] = {
            "model": name,
            "backbone": config.kind,
            "parameters": parameters,
            "image": f"{size[0]}x{size[1]}",
            "published top-1": weights.reported.get("top1") if weights else None,
            "what it is": describe(name),
        }
        rows.append(row)
    return rows


def _recipes() -> list[dict[str, object]]:
    from leanformer.recipes import list_recipes
    from leanformer.recipes.registry import describe_recipe

    return [{"recipe": name, "what it is": describe_recipe(name)} for name in list_recipes()]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
