"""The published layout of Swin, and that of timm, which counts a downsampling to the stage behind it."""

from leanformer.checkpoints.keymap import KeyMap, Rename
from leanformer.zoo.layouts.common import adapt, block_rules, norm_rules
from leanformer.zoo.weights import Layout, register_layout


def _swin_map(name: str, ours: str, head: str) -> KeyMap:
    """The map whose `layers.{s}.downsample` is in front of our stage `ours`."""
    downsample, stage = "layers.{s}.downsample", f"backbone.stages.{{{ours}}}.downsample"
    return KeyMap(
        Rename("absolute_pos_embed", "backbone.position.table"),
        Rename("patch_embed.proj.{leaf}", "backbone.stem.proj.{leaf}"),
        *norm_rules("patch_embed.norm", "backbone.stem.norm"),
        *block_rules("layers.{s}.blocks.{b}", "backbone.stages.{s}.blocks.{b}"),
        Rename(f"{downsample}.reduction.{{leaf}}", f"{stage}.reduction.{{leaf}}"),
        *norm_rules(f"{downsample}.norm", f"{stage}.norm"),
        *norm_rules("norm", "head.norm"),
        Rename(f"{head}.{{leaf}}", "head.linear.{leaf}"),
        name=name,
    )


SWIN = _swin_map("swin", ours="s+1", head="head")
TIMM_SWIN = _swin_map("timm_swin", ours="s", head="head.fc")

register_layout("swin", Layout(name="published", key_map=SWIN, adapt=adapt))
register_layout(
    "swin",
    Layout(
        name="timm",
        key_map=TIMM_SWIN,
        adapt=adapt,
        recognizes=lambda shapes: (
            "layers.1.downsample.reduction.weight" in shapes and "layers.0.downsample.reduction.weight" not in shapes
        ),
    ),
)
