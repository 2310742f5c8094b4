"""Parameter groups: which parameters weight decay spares, and how much slower early layers learn."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, cast

from torch import Tensor, nn

from leanformer.config import register_config
from leanformer.errors import ConfigError
from leanformer.layers.block import Stage
from leanformer.models import Backbone


@register_config("groups")
class Groups:
    """How parameters are told apart. Patterns match whole names, `*` for anything: `*.layer_scale.gamma`.

    Weight decay spares biases, everything of at most one axis (norms, scales) and what the model names in
    `no_weight_decay()`.
    """

    decayed: tuple[str, ...] = ()
    """Patterns of parameters that weight decay reaches although the rule spares them."""
    spared: tuple[str, ...] = ()
    """Patterns of further parameters that it spares."""
    layer_decay: float = 1.0
    """Each block learns this much slower than the one behind it, the head at the full rate
    (https://arxiv.org/abs/2106.08254, appendix)."""

    def __post_init__(self) -> None:
        if not 0.0 < self.layer_decay <= 1.0:
            raise ConfigError(f"layer_decay must be in (0, 1], got {self.layer_decay}")


def matching(names: Iterable[str], patterns: tuple[str, ...], what: str) -> set[str]:
    """The names that fit one of the patterns.

    Raises:
        ConfigError: if a pattern fits none.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits:
            raise ConfigError(f"{what}: no parameter of the model fits {pattern!r}; its names are like {names[0]!r}")
        found |= hits
    return found


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, groups: Groups | None = None
) -> list[dict[str, Any]]:
    """Groups of named parameters: those with weight decay, then those without it, each from the head down if their
    rates differ.

    A group keeps `base_lr` and `base_weight_decay`, which schedules multiply.
    """
    groups = groups or Groups()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("the model has no parameter to train: all of them are frozen")
    decayed = _decayed(model, groups)
    depths, last = depth_ids(model) if groups.layer_decay < 1.0 else ({}, 0)
    sorted_out: dict[tuple[bool, int], list[tuple[str, Tensor]]] = {}
    for name, parameter in trained:
        sorted_out.setdefault((name not in decayed, last - depths.get(name, last)), []).append((name, parameter))
    made = []
    for (spared, below), named in sorted(sorted_out.items(), key=lambda item: item[0]):
        decay, rate = 0.0 if spared else weight_decay, lr * groups.layer_decay**below
        made.append({"params": named, "lr": rate, "weight_decay": decay, "base_lr": rate, "base_weight_decay": decay})
    return made


def _decayed(model: nn.Module, groups: Groups) -> set[str]:
    parameters = dict(model.named_parameters())
    named: set[str] = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    usual = {n for n, p in parameters.items() if p.ndim > 1 and not n.endswith("bias") and n not in named}
    spared = matching(parameters, groups.spared, "spared")
    return (usual | matching(parameters, groups.decayed, "decayed")) - spared


def depth_ids(model: nn.Module) -> tuple[dict[str, int], int]:
    """How deep each parameter of a classifier lies, and the depth of the head.

    0 for the stem, positions and tokens; then each block in order, with what makes its stage's map in front of the
    first and the stage's norm behind the last; the head, and a norm that ends the backbone, are last.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise ConfigError(f"layer_decay needs the blocks of a backbone, which a {type(model).__name__} has not")
    ids = dict.fromkeys((name for name, _ in model.named_parameters()), 0)
    count = 0
    for index, module in enumerate(backbone.stages):
        stage, prefix = cast(Stage, module), f"backbone.stages.{index}."
        blocks = {f"{prefix}blocks.{b}.": count + 1 + b for b in range(len(stage.blocks))}
        behind = count + len(stage.blocks)
        for name in ids:
            if name.startswith(prefix):
                inside = next((depth for start, depth in blocks.items() if name.startswith(start)), None)
                front = behind if name.startswith(f"{prefix}norm.") else min(count + 1, behind)
                ids[name] = front if inside is None else inside
        count = behind
    last = count + 1
    for name in ids:
        if not name.startswith("backbone.") or name.startswith(("backbone.norm.", "backbone.spare_norm.")):
            ids[name] = last
    return ids, last
