"""Published systems, one file each: variants, key maps and where their weights are. Importing this registers them all."""

from leanformer.zoo import base, flatten, slab, weights

__all__ = ["base", "flatten", "slab", "weights"]
