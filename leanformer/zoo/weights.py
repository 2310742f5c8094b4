"""Published weights: where they are, what they were reported to reach, how they load."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from leanformer.checkpoints.fetch import Remote
from leanformer.checkpoints.keymap import KeyMap, Rename
from leanformer.errors import ConfigError, suggestion
from leanformer.models import BackboneConfig, Preprocess

_WEIGHTS: dict[str, Weights] = {}
_LAYOUTS: dict[str, list[Layout]] = {}

Shapes = Mapping[str, tuple[int, ...]]
"""The keys of a file with the shapes of their tensors."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published weight file."""

    page: str
    """Where a person finds the file."""
    file: str | None = None
    """Its name there, where it is known."""
    url: str | None = None
    """Direct link, if there is one."""
    sha256: str | None = None
    """Its SHA-256 in hexadecimal, or how it begins, where it is known."""
    license: str | None = None
    """None if none was published."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    reported: Mapping[str, float] = field(default_factory=dict)
    """Published figures, such as top1 in per cent."""

    def remote(self, name: str) -> Remote:
        """The file of the weights `name`, `<model>.<tag>`, and where the cache keeps it."""
        path = f"weights/{name}/{self.file or f'{name}.pth'}"
        return Remote(path=path, page=self.page, url=self.url, file=self.file, sha256=self.sha256, weights=name)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which files of a backbone family name things."""

    name: str
    """"published", "timm", "hugging_face" or "dense"."""
    key_map: KeyMap | Callable[[BackboneConfig], KeyMap]
    """The map, or what makes it of a config where it depends on that."""
    adapt: Callable[[BackboneConfig, Shapes], BackboneConfig] = lambda config, shapes: config
    """The config that fits a file with these keys and shapes, where files of one model come in several forms."""
    recognizes: Callable[[Shapes], bool] = lambda shapes: False
    """Whether a file with these keys is laid out so; not asked of the first layout of a family."""

    def map_for(self, config: BackboneConfig) -> KeyMap:
        """The key map of a model of `config`."""
        return self.key_map if isinstance(self.key_map, KeyMap) else self.key_map(config)


OURS = Layout(
    name="ours",
    key_map=KeyMap(Rename("{rest}", "{rest}"), name="ours"),
    recognizes=lambda shapes: any(_OURS.match(key) for key in shapes),
)
"""Files under the names that our modules have themselves."""
_OURS = re.compile(r"backbone\.stages\.\d+\.blocks\.")


def publish(name: str, weights: Weights) -> None:
    """Register the weights `name`, `<model>.<tag>`."""
    assert name not in _WEIGHTS, f"weights {name!r} are registered twice"
    _WEIGHTS[name] = weights


def published(name: str) -> Weights | None:
    """The weights registered as `<model>.<tag>`, or the first of a model named without a tag; None if there are none.

    Raises:
        ConfigError: for an unknown tag.
    """
    full = full_name(name)
    return None if full is None else _WEIGHTS[full]


def full_name(name: str) -> str | None:
    """`<model>.<tag>` of a model's weights, the first of them if no tag is given; None if there are none.

    Raises:
        ConfigError: for an unknown tag.
    """
    model, _, tag = name.partition(".")
    if "/" in model:  # a name on a hub
        return None
    known = [key for key in _WEIGHTS if key.partition(".")[0] == model]
    if tag and name not in known:
        have = f"; there are {', '.join(known)}" if known else "; none are published for this model"
        raise ConfigError(f"unknown weights {name!r}{have}{suggestion(name, known)}")
    return (name if tag else known[0]) if known else None


def all_published() -> Mapping[str, Weights]:
    """All registered weights by their names."""
    return dict(_WEIGHTS)


def register_layout(kind: str, layout: Layout) -> None:
    """Register a way in which files of the backbone family `kind` are laid out; the first is the one its authors
    publish."""
    _LAYOUTS.setdefault(kind, []).append(layout)


def layouts_of(config: BackboneConfig) -> tuple[Layout, ...]:
    """The layouts known for a config's family, the one its authors publish first.

    Raises:
        ConfigError: if there is none.
    """
    if config.kind not in _LAYOUTS:
        raise ConfigError(f"no published file layout is known for backbones of kind {config.kind!r}")
    return tuple(_LAYOUTS[config.kind])


def layout_of(config: BackboneConfig, shapes: Shapes | None = None) -> Layout:
    """The layout of a file with these keys, or the one that the authors of the config's family publish."""
    first, *others = layouts_of(config)
    if shapes is not None and OURS.recognizes(shapes):
        return OURS
    return next((layout for layout in others if shapes is not None and layout.recognizes(shapes)), first)
