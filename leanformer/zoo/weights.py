"""Published weights: where they are, what they were reported to reach, how they load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from leanformer.checkpoints.keymap import KeyMap
from leanformer.errors import ConfigError, suggestion
from leanformer.models import BackboneConfig, Preprocess

_WEIGHTS: dict[str, Weights] = {}
_LAYOUTS: dict[str, Layout] = {}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published weight file."""

    page: str
    """Where a person finds the file."""
    file: str | None = None
    """Its name there, where it is known."""
    license: str | None = None
    """None if none was published."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    reported: Mapping[str, float] = field(default_factory=dict)
    """Published figures, such as top1 in per cent."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the published files of one backbone family name things."""

    key_map: KeyMap
    adapt: Callable[[BackboneConfig, Mapping[str, tuple[int, ...]]], BackboneConfig]
    """The config that fits a file with these published keys and shapes, where files of one model come in several
    forms."""


def publish(name: str, weights: Weights) -> None:
    """Register the weights `name`, `<model>.<tag>`."""
    assert name not in _WEIGHTS, f"weights {name!r} are registered twice"
    _WEIGHTS[name] = weights


def published(name: str) -> Weights | None:
    """The weights registered as `<model>.<tag>`, or the first of a model named without a tag; None if there are none.

    Raises:
        ConfigError: for an unknown tag.
    """
    model, _, tag = name.partition(".")
    known = [key for key in _WEIGHTS if key.partition(".")[0] == model]
    if tag and name not in known:
        have = f"; there are {', '.join(known)}" if known else "; none are published for this model"
        raise ConfigError(f"unknown weights {name!r}{have}{suggestion(name, known)}")
    return _WEIGHTS[name if tag else known[0]] if known else None


def register_layout(kind: str, layout: Layout) -> None:
    """Register how the published files of the backbone family `kind` are laid out."""
    _LAYOUTS[kind] = layout


def layout_of(config: BackboneConfig) -> Layout:
    """The published layout of a config's family."""
    if config.kind not in _LAYOUTS:
        raise ConfigError(f"no published file layout is known for backbones of kind {config.kind!r}")
    return _LAYOUTS[config.kind]
