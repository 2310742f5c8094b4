"""How published files name things: one file for each backbone family, which registers the layouts that exist of it.

The first layout of a family is the one its authors publish; SLAB's and FLatten's files extend it with keys of their own
(`dwc`, `positional_encoding`, `scale`) and other norms under the same places.
"""

from leanformer.zoo.layouts import cswin, l2vit, pvt, swiftformer, swin, vit

# isort: split
from leanformer.zoo.layouts import hugging_face, timm_names  # behind those of the authors, which come first

__all__ = ["cswin", "hugging_face", "l2vit", "pvt", "swiftformer", "swin", "timm_names", "vit"]
