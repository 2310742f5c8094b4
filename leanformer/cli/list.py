"""`leanformer list`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from leanformer.cli.common import optional, print_json

Rows = list[dict[str, Any]]

_FILTERS = ("system", "backbone", "min_params", "max_params", "min_accuracy")


@dataclass(frozen=True, kw_only=True)
class List:
    """List models (and recipes) with their size and published accuracy."""

    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*"
    """Shell-style pattern of names, such as 'slab_*'."""
    system: Literal["slab", "flatten", "swiftformer", "l2vit", "attention_removal", "base"] | None = None
    """Models of this published system alone, or the plain ones that the systems start from."""
    backbone: Annotated[str | None, optional("KIND", "all")] = None
    """Models with this backbone alone, such as swin."""
    min_params: Annotated[float | None, optional("MILLIONS", "none")] = None
    """The least number of parameters, in millions."""
    max_params: Annotated[float | None, optional("MILLIONS", "none")] = None
    """The largest number of parameters, in millions."""
    min_accuracy: Annotated[float | None, optional("PERCENT", "none")] = None
    """The least published top-1 accuracy on ImageNet, in per cent."""
    recipes: bool = False
    """List recipes instead."""
    json: bool = False
    """Print JSON, with exact numbers and what each model is."""

    def run(self) -> int:
        """Print a line for each."""
        self._check()
        rows = _recipes() if self.recipes else self._models()
        if self.json:
            print_json(rows)
            return 0
        cells = [list(rows[0]), *([_cell(key, value) for key, value in row.items()] for row in rows)]
        if not self.recipes:
            cells = [line[:-1] for line in cells]  # what a model is stands in `info` and in the JSON
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return 0

    def _check(self) -> None:
        """Refuse filters that make no sense."""
        from leanformer.errors import ConfigError

        if self.min_accuracy is not None and self.min_accuracy < 1:
            raise ConfigError(f"--min-accuracy is in per cent, such as 81.5, got {self.min_accuracy:g}")
        given = [name for name in _FILTERS if getattr(self, name) is not None]
        if self.recipes and (given or self.pattern != "*"):
            flags = [f"--{name.replace('_', '-')}" for name in given] or [repr(self.pattern)]
            raise ConfigError(f"--recipes takes no filters of models; leave out {', '.join(flags)}")

    def _models(self) -> Rows:
        from leanformer.api import list_models
        from leanformer.errors import ConfigError, suggestion

        rows = [_row(name) for name in list_models(self.pattern)]
        if not rows:
            wide = f"*{self.pattern}*"
            hint = "`leanformer list` shows them all"
            if not set("*?[") & set(self.pattern) and list_models(wide):
                hint = f"patterns take `*`: try '{wide}'"
            raise ConfigError(f"no model's name matches {self.pattern!r}; {hint}")
        kinds = {row["backbone"] for row in rows}
        if self.backbone is not None and self.backbone not in kinds:
            hint = suggestion(self.backbone, kinds)
            raise ConfigError(
                f"no model here has the backbone {self.backbone!r}; there are {', '.join(sorted(kinds))}{hint}"
            )
        chosen = [row for row in rows if self._takes(row)]
        if not chosen:
            raise ConfigError(f"none of {len(rows)} models fits all filters; leave one out")
        return chosen

    def _takes(self, row: dict[str, Any]) -> bool:
        millions, accuracy = row["parameters"] / 1e6, row["published top-1"]
        return (
            self.system in (None, row["system"])
            and self.backbone in (None, row["backbone"])
            and (self.min_params is None or millions >= self.min_params)
            and (self.max_params is None or millions <= self.max_params)
            and (self.min_accuracy is None or (accuracy is not None and accuracy >= self.min_accuracy))
        )


def _row(name: str) -> dict[str, Any]:
    from leanformer.bench import known_cost
    from leanformer.models import find
    from leanformer.models.registry import describe, system_of
    from leanformer.zoo.weights import published

    config, weights, cost = find(name), published(name), known_cost(name)
    height, width = config.image_grid
    return {
        "model": name,
        "system": system_of(name),
        "backbone": config.kind,
        "parameters": cost.parameters,
        "MACs": cost.macs,
        "published top-1": weights.reported.get("top1") if weights else None,
        "image": f"{height}x{width}",
        "license of weights": (weights.license or "none published") if weights else None,
        "what it is": describe(name),
    }


def _recipes() -> Rows:
    from leanformer.recipes import list_recipes
    from leanformer.recipes.registry import describe_recipe

    return [{"recipe": name, "what it is": describe_recipe(name)} for name in list_recipes()]


def _cell(key: str, value: object) -> str:
    if value is None:
        return "-"
    if key in ("parameters", "MACs"):
        unit, name = (1e9, "G") if key == "MACs" else (1e6, "M")
        assert isinstance(value, int)
        return f"{value / unit:.2f} {name}"
    return str(value)
