"""The published layout of Swin."""

from leanformer.checkpoints.keymap import KeyMap, Rename
from leanformer.zoo.layouts.common import adapt, block_rules, norm_rules
from leanformer.zoo.weights import Layout, register_layout

SWIN = KeyMap(
    Rename("absolute_pos_embed", "backbone.position.table"),
    Rename("patch_embed.proj.{leaf}", "backbone.stem.proj.{leaf}"),
    *norm_rules("patch_embed.norm", "backbone.stem.norm"),
    *block_rules("layers.{s}.blocks.{b}", "backbone.stages.{s}.blocks.{b}"),
    Rename("layers.{s}.downsample.reduction.{leaf}", "backbone.stages.{s+1}.downsample.reduction.{leaf}"),
    *norm_rules("layers.{s}.downsample.norm", "backbone.stages.{s+1}.downsample.norm"),
    *norm_rules("norm", "head.norm"),
    Rename("head.{leaf}", "head.linear.{leaf}"),
    name="swin",
)

register_layout("swin", Layout(name="published", key_map=SWIN, adapt=adapt))
