"""leanformer makes transformers lean, and proves it.

    import leanformer
    model = leanformer.load("flatten_swin_tiny", weights="FLatten_Swin_T.pth")
    leanformer.predict(model, "cat.jpg")

The names below are imported when they are first used, so that the command line can show its help without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leanformer.api import apply, build, list_models, load, predict, save
    from leanformer.edits import Edit, FoldNorms
    from leanformer.models import Backbone, BackboneConfig, ImageClassifier, Preprocess

__version__ = "0.1.0"

_HOMES = {
    "apply": "leanformer.api",
    "build": "leanformer.api",
    "list_models": "leanformer.api",
    "load": "leanformer.api",
    "predict": "leanformer.api",
    "save": "leanformer.api",
    "Backbone": "leanformer.models",
    "BackboneConfig": "leanformer.models",
    "Edit": "leanformer.edits",
    "FoldNorms": "leanformer.edits",
    "ImageClassifier": "leanformer.models",
    "Preprocess": "leanformer.models",
}

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Edit",
    "FoldNorms",
    "ImageClassifier",
    "Preprocess",
    "apply",
    "build",
    "list_models",
    "load",
    "predict",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'leanformer' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
