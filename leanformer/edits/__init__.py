"""Edits: structural changes to a built model, as values that are saved with it and replayed when it is loaded."""

from leanformer.edits.attention import DiluteAttention, RemoveAttention
from leanformer.edits.edit import Edit, EditReport, apply, edit, replay
from leanformer.edits.freeze_norms import FreezeNorms
from leanformer.edits.heads import DropHeads
from leanformer.edits.linear import FuseLinear
from leanformer.edits.norm import FoldNorms
from leanformer.edits.swap_attention import SwapAttention
from leanformer.edits.swap_norm import SwapNorm
from leanformer.edits.tail import ClassTokenTail
from leanformer.edits.tokens import MergeTokens, trace_tokens

__all__ = [
    "ClassTokenTail",
    "DiluteAttention",
    "DropHeads",
    "Edit",
    "EditReport",
    "FoldNorms",
    "FreezeNorms",
    "FuseLinear",
    "MergeTokens",
    "RemoveAttention",
    "SwapAttention",
    "SwapNorm",
    "apply",
    "edit",
    "replay",
    "trace_tokens",
]
