"""The attentions that exist, one file each: a config that users name, and the kernel it builds."""

from leanformer.layers.attention.additive import Additive
from leanformer.layers.attention.elu import EluLinear
from leanformer.layers.attention.focused import FocusedLinear
from leanformer.layers.attention.frames import AttentionConfig
from leanformer.layers.attention.multi_scale import MultiScaleLinear
from leanformer.layers.attention.normalized import NormalizedLinear
from leanformer.layers.attention.simplified import SimplifiedLinear
from leanformer.layers.attention.softmax import Softmax

__all__ = [
    "Additive",
    "AttentionConfig",
    "EluLinear",
    "FocusedLinear",
    "MultiScaleLinear",
    "NormalizedLinear",
    "SimplifiedLinear",
    "Softmax",
]
