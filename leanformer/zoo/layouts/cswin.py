"""The published layout of CSwin: one fused projection for all branches of a block, which are `attns`."""

from __future__ import annotations

from leanformer.checkpoints.keymap import KeyMap, Rename, Rule, SplitRows
from leanformer.config import at
from leanformer.models import BackboneConfig
from leanformer.models.cswin import CSwin
from leanformer.zoo.layouts.common import adapt, norm_rules
from leanformer.zoo.weights import Layout, register_layout

BLOCK, OURS = "stage{s}.{b}", "backbone.stages.{s-1}.blocks.{b}"
BRANCH, KERNEL = f"{BLOCK}.attns.{{k}}", f"{OURS}.attn.body.branches.{{k}}.kernel"

RULES = (
    Rename("stage1_conv_embed.0.{leaf}", "backbone.stem.proj.{leaf}"),
    *norm_rules("stage1_conv_embed.2", "backbone.stem.norm"),
    *norm_rules(f"{BLOCK}.norm1", f"{OURS}.attn.norm"),
    *norm_rules(f"{BLOCK}.norm2", f"{OURS}.mlp.norm"),
    Rename(f"{BRANCH}.get_v.{{leaf}}", f"{OURS}.attn.body.branches.{{k}}.value_position.{{leaf}}"),
    Rename(f"{BRANCH}.positional_encoding", f"{KERNEL}.key_position.table"),
    Rename(f"{BRANCH}.dwc.{{leaf}}", f"{KERNEL}.local.conv.{{leaf}}"),
    Rename(f"{BRANCH}.scale", f"{KERNEL}.scale"),
    Rename(f"{BLOCK}.proj.{{leaf}}", f"{OURS}.attn.body.proj.{{leaf}}"),
    Rename(f"{BLOCK}.mlp.{{rest}}", f"{OURS}.mlp.body.{{rest}}"),
    Rename("merge{s}.conv.{leaf}", "backbone.stages.{s}.downsample.proj.{leaf}"),
    *norm_rules("merge{s}.norm", "backbone.stages.{s}.downsample.norm"),
    *norm_rules("norm", "head.norm"),
    Rename("head.{leaf}", "head.linear.{leaf}"),
)


def key_map(config: BackboneConfig) -> KeyMap:
    """The key map of a CSwin: how many branches share a block's projection depends on the config."""
    assert isinstance(config, CSwin)
    return KeyMap(*_projections(config), *RULES, name="cswin")


def _projections(config: CSwin) -> list[Rule]:
    """The projection of each block: groups of queries, keys and values, the branches side by side in each."""
    rules = []
    for stage, depth in enumerate(config.depths):
        for block in range(depth):
            count = 1 if at(config.split_size, stage, block) is None else 2
            branches = f"backbone.stages.{stage}.blocks.{block}.attn.body.branches"
            ours = tuple(f"{branches}.{branch}.qkv.{{leaf}}" for branch in range(count))
            rules.append(SplitRows(f"stage{stage + 1}.{block}.qkv.{{leaf}}", ours, groups=3))
    return rules


register_layout("cswin", Layout(name="published", key_map=key_map, adapt=adapt))
