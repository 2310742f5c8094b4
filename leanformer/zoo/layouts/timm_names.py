"""The layouts of timm that differ from those that the authors of a family publish."""

from leanformer.checkpoints.keymap import KeyMap, Rename
from leanformer.zoo.layouts.common import adapt, block_rules, norm_rules
from leanformer.zoo.layouts.pvt import reduced_attention_rules
from leanformer.zoo.weights import Layout, register_layout

_BLOCK, _OURS = "stages.{s}.blocks.{b}", "backbone.stages.{s}.blocks.{b}"
PVT_V2 = KeyMap(
    Rename("patch_embed.proj.{leaf}", "backbone.stem.proj.{leaf}"),
    *norm_rules("patch_embed.norm", "backbone.stem.norm"),
    Rename("stages.{s}.downsample.proj.{leaf}", "backbone.stages.{s}.downsample.proj.{leaf}"),
    *norm_rules("stages.{s}.downsample.norm", "backbone.stages.{s}.downsample.norm"),
    *reduced_attention_rules(f"{_BLOCK}.attn", f"{_OURS}.attn.body"),
    Rename(f"{_BLOCK}.mlp.dwconv.{{leaf}}", f"{_OURS}.mlp.body.conv.{{leaf}}"),
    *block_rules(_BLOCK, _OURS),
    *norm_rules("stages.{s}.norm", "backbone.stages.{s}.norm"),
    Rename("head.{leaf}", "head.linear.{leaf}"),
    name="timm_pvt_v2",
)

register_layout(
    "pvt_v2",
    Layout(
        name="timm", key_map=PVT_V2, adapt=adapt, recognizes=lambda shapes: "stages.0.blocks.0.norm1.weight" in shapes
    ),
)
