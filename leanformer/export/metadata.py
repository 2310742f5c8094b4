"""What an exported file says about itself: enough to prepare an image, name its class and tell where the model came
from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from torch import nn

from leanformer import __version__
from leanformer.config import from_dict, to_dict
from leanformer.errors import ConfigError, ExportError
from leanformer.models.preprocess import Preprocess

PREFIX = "leanformer."


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The description written into an exported file, one JSON text per field."""

    model: str | None
    """Registered name of the model."""
    classes: tuple[str, ...] | None
    """Class names in the order of the outputs."""
    preprocess: Preprocess
    """How an image becomes an input."""
    config: dict[str, Any] | None
    """The architecture."""
    edits: tuple[dict[str, Any], ...]
    """The edits that were applied to it, in order."""
    version: str
    """The leanformer that wrote the file."""
    multi_label: bool = False
    """Whether an image may have several classes, so that the probability of each is the sigmoid of its output."""


def describe(model: nn.Module) -> Metadata:
    """The metadata of `model`; what a plain module does not carry (classes, config, edits) is left empty."""
    classes = getattr(model, "classes", None)
    config = getattr(model, "config", None)
    return Metadata(
        model=getattr(model, "name", None),
        classes=None if classes is None else tuple(classes),
        preprocess=getattr(model, "preprocess", None) or Preprocess(),
        config=None if config is None else to_dict(config),
        edits=tuple(to_dict(edit) for edit in getattr(model, "edits", ())),
        version=__version__,
        multi_label=getattr(model, "multi_label", False),
    )


def to_properties(metadata: Metadata) -> dict[str, str]:
    """The metadata as key and JSON text, which is what export formats can hold."""
    return {PREFIX + field.name: json.dumps(to_dict(getattr(metadata, field.name))) for field in fields(metadata)}


def from_properties(properties: Mapping[str, str], source: str) -> Metadata:
    """Read what `to_properties` wrote; `source` names the file in errors."""
    values = {}
    for field in fields(Metadata):
        if PREFIX + field.name not in properties:
            if field.default is not MISSING:
                continue  # the file is older than the field
            raise ExportError(f"{source}: no '{PREFIX}{field.name}' in its metadata; was it exported by leanformer?")
        try:
            values[field.name] = json.loads(properties[PREFIX + field.name])
        except json.JSONDecodeError as error:
            raise ExportError(f"{source}: its metadata '{PREFIX}{field.name}' is not JSON: {error}") from error
    classes = values["classes"]
    values["classes"] = None if classes is None else tuple(classes)
    values["edits"] = tuple(values["edits"])
    try:
        values["preprocess"] = from_dict(values["preprocess"], Preprocess, "preprocess")
    except ConfigError as error:
        raise ExportError(f"{source}: {error}; it may have been written by a newer leanformer") from error
    return Metadata(**values)
