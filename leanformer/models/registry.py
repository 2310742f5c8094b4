"""Names of models: a function that returns a config registers under its own name."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import TypeVar

from leanformer.errors import ConfigError, suggestion
from leanformer.models.backbone import BackboneConfig

C = TypeVar("C", bound=BackboneConfig)

SYSTEMS = ("slab", "flatten", "swiftformer", "l2vit", "attention_removal")
"""The published systems, each with a file of its name in which its models are registered."""
FILES = {**{name: name for name in SYSTEMS}, "dense": "slab"}
"""The system whose models a file registers; trunks for dense tasks that differ from their classifiers are SLAB's."""

_MODELS: dict[str, Callable[[], BackboneConfig]] = {}


def register(function: Callable[[], C]) -> Callable[[], C]:
    """Function decorator: the function's name becomes the model's name."""
    name = function.__name__
    assert name not in _MODELS, f"model {name!r} is registered twice"
    _MODELS[name] = function
    return function


def find(name: str) -> BackboneConfig:
    """The config registered as `name`; a weights tag behind a dot (`swin_tiny.in1k`) is left out.

    Raises:
        ConfigError: if there is no such model, naming the nearest ones.
    """
    base = name.partition(".")[0]
    if base not in _MODELS:
        hint = suggestion(base, _MODELS) or "; `leanformer list` shows them all"
        raise ConfigError(f"unknown model {name!r}{hint}")
    return _MODELS[base]()


def list_models(pattern: str = "*") -> list[str]:
    """The names that match a shell-style pattern, sorted."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def describe(name: str) -> str:
    """The first paragraph of what the registering function says of its model, as one line."""
    return " ".join((_MODELS[name.partition(".")[0]].__doc__ or "").partition("\n\n")[0].split())


def system_of(name: str) -> str:
    """The published system that a model belongs to, by the file that registers it; "base" for none."""
    file = _MODELS[name.partition(".")[0]].__module__.rpartition(".")[2]
    return FILES.get(file, "base")
