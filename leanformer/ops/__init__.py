"""Functions on tensors: no parameters, no modules, no configs. Each piece of arithmetic has its one reference here."""

from leanformer.ops.additive_attention import additive_attention, unit_length
from leanformer.ops.attention import softmax_attention
from leanformer.ops.feature_maps import focused_map
from leanformer.ops.heads import merge_heads, split_heads
from leanformer.ops.linear_attention import linear_attention
from leanformer.ops.maps import pad_image, to_map, to_tokens
from leanformer.ops.merging import Groups, best_matches, match_tokens, merge_amount, merge_tokens, unmerge_tokens
from leanformer.ops.precision import full_float32
from leanformer.ops.regions import join_windows, pad_to_multiple, shifted_window_mask, shortfall, split_windows
from leanformer.ops.statistics import Moments, constant_channels, gaussian_entropy

__all__ = [
    "Groups",
    "Moments",
    "additive_attention",
    "best_matches",
    "constant_channels",
    "focused_map",
    "full_float32",
    "gaussian_entropy",
    "join_windows",
    "linear_attention",
    "match_tokens",
    "merge_amount",
    "merge_heads",
    "merge_tokens",
    "pad_image",
    "pad_to_multiple",
    "shifted_window_mask",
    "shortfall",
    "softmax_attention",
    "split_heads",
    "split_windows",
    "to_map",
    "to_tokens",
    "unit_length",
    "unmerge_tokens",
]
