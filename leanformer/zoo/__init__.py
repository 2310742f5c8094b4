"""Published systems, one file each: variants, key maps and where their weights are. Importing this registers them
all."""

from leanformer.models.registry import find, list_models
from leanformer.zoo import attention_removal, base, dense, flatten, l2vit, layouts, slab, swiftformer, weights

__all__ = [
    "attention_removal",
    "base",
    "dense",
    "find",
    "flatten",
    "l2vit",
    "layouts",
    "list_models",
    "slab",
    "swiftformer",
    "weights",
]
