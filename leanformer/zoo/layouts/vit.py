"""The published layout of DeiT."""

from leanformer.checkpoints.keymap import KeyMap, Rename
from leanformer.zoo.layouts.common import adapt, block_rules, norm_rules
from leanformer.zoo.weights import Layout, register_layout

VIT = KeyMap(
    Rename("cls_token", "backbone.class_token"),
    Rename("pos_embed", "backbone.position.table"),
    Rename("patch_embed.proj.{leaf}", "backbone.stem.proj.{leaf}"),
    *block_rules("blocks.{b}", "backbone.stages.0.blocks.{b}"),
    *norm_rules("norm", "head.norm"),
    Rename("head.{leaf}", "head.linear.{leaf}"),
    name="vit",
)

register_layout("vit", Layout(name="published", key_map=VIT, adapt=adapt))
