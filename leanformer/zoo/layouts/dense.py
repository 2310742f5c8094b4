"""The layouts of published backbones for dense tasks: those of the classifiers, without a head, with a norm behind each
level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from leanformer.checkpoints.keymap import Drop, KeyMap, Rename, Rule, ScheduleCounters
from leanformer.checkpoints.pattern import Pattern
from leanformer.layers.norm import BatchNorm, LayerNorm, NormConfig
from leanformer.layers.site import Grid
from leanformer.models import BackboneConfig
from leanformer.models.swin import Swin
from leanformer.zoo.weights import OURS, Shapes, layout_of

_LAYER_NORM = LayerNorm()


@dataclass(frozen=True, kw_only=True)
class DenseLayout:
    """What the dense-task files of a backbone family add to those of its classifiers."""

    level_norm: NormConfig | None = _LAYER_NORM
    """Behind the map of each level; None where there is none."""
    level_names: tuple[str, ...] = ("norm0", "norm1", "norm2", "norm3")
    """What the files call those norms."""
    freeze_statistics: bool = False
    """Whether the published training leaves the batch statistics of the backbone alone."""


_LAYOUTS = {
    "swin": DenseLayout(freeze_statistics=True),
    "pvt": DenseLayout(level_norm=None, freeze_statistics=True),
    "pvt_v2": DenseLayout(level_norm=None),  # its stages end with norms of their own
    "swiftformer": DenseLayout(level_norm=BatchNorm(), level_names=("norm0", "norm2", "norm4", "norm6")),
}


def dense_layout(config: BackboneConfig) -> DenseLayout:
    """The dense-task layout of a config's family."""
    return _LAYOUTS.get(config.kind, DenseLayout())


def head_keys(config: BackboneConfig, shapes: Shapes) -> list[str]:
    """The keys of a file that belong to a classifier's head, its final norm included."""
    patterns = [Pattern(drop.published) for drop in _head_drops(config, shapes)]
    return [key for key in shapes if any(pattern.match(key) is not None for pattern in patterns)]


def dense_map(config: BackboneConfig, shapes: Shapes) -> KeyMap:
    """The key map of a pyramid of `config` and a file with these keys: a dense-task backbone, or a classifier, whose
    head is dropped."""
    layout = dense_layout(config)
    rules: list[Rule] = [*_head_drops(config, shapes)]
    if OURS.recognizes(shapes):
        rules += [Rename(f"{part}.{{rest}}", f"{part}.{{rest}}") for part in ("backbone", "norms")]
        return KeyMap(*rules, name=f"our_{config.kind}_dense")
    if layout.level_norm is not None:
        rules += [Rename(f"{name}.{{rest}}", f"norms.{i}.{{rest}}") for i, name in enumerate(layout.level_names)]
    if isinstance(config, Swin) and len(shapes.get("absolute_pos_embed", ())) == 4:
        height, width = config.image_grid
        grid = height // config.patch_size, width // config.patch_size
        rules.append(_MapTable("absolute_pos_embed", "backbone.position.table", grid))
    warm = any(key.endswith(".warm") for key in shapes)
    for rule in _backbone_rules(config, shapes):
        if isinstance(rule, ScheduleCounters) and not warm:
            rule = _Counters(rule.published, rule.ours)
        rules.append(rule)
    return KeyMap(*rules, name=f"{config.kind}_dense")


def _rules(config: BackboneConfig, shapes: Shapes) -> tuple[Rule, ...]:
    return layout_of(config, shapes).map_for(config).rules


def _in_head(rule: Rule) -> bool:
    return any(name.startswith("head.") for name in rule.patterns()[1])


def _backbone_rules(config: BackboneConfig, shapes: Shapes) -> list[Rule]:
    return [rule for rule in _rules(config, shapes) if not _in_head(rule)]


def _head_drops(config: BackboneConfig, shapes: Shapes) -> list[Drop]:
    if OURS.recognizes(shapes):
        return [Drop("head.{rest}")]
    return [Drop(name) for rule in _rules(config, shapes) if _in_head(rule) for name in rule.patterns()[0]]


class _Counters(ScheduleCounters):
    """The counters of SLAB's dense-task norms, which have no warm-up."""

    def patterns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        published, ours = super().patterns()
        return published[:2], ours

    def backward(self, ours: list[Tensor]) -> list[Tensor]:
        return super().backward(ours)[:2]


@dataclass(frozen=True)
class _MapTable(Rename):
    """A position table (1, C, H, W) as (1, H W, C)."""

    grid: Grid = (1, 1)

    def forward(self, published: list[Tensor]) -> list[Tensor]:
        return [published[0].flatten(2).transpose(1, 2)]

    def backward(self, ours: list[Tensor]) -> list[Tensor]:
        return [ours[0].transpose(1, 2).unflatten(2, self.grid)]
