"""The published layouts of PVT and PVTv2."""

from leanformer.checkpoints.keymap import KeyMap, Rename, Rule
from leanformer.models import BackboneConfig
from leanformer.models.pvt import PVT
from leanformer.zoo.layouts.common import adapt, block_rules, norm_rules
from leanformer.zoo.weights import Layout, register_layout

BLOCK, OURS = "block{s+1}.{b}", "backbone.stages.{s}.blocks.{b}"
BODY = f"{OURS}.attn.body"


def reduced_attention_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """The attention of one block, without the output projection."""
    return (
        Rename(f"{published}.q.{{leaf}}", f"{ours}.q.{{leaf}}"),
        Rename(f"{published}.kv.{{leaf}}", f"{ours}.kv.{{leaf}}"),
        Rename(f"{published}.sr.{{leaf}}", f"{ours}.reduce.{{leaf}}"),
        *norm_rules(f"{published}.norm", f"{ours}.norm"),
    )


PYRAMID = (
    Rename("patch_embed1.proj.{leaf}", "backbone.stem.proj.{leaf}"),
    *norm_rules("patch_embed1.norm", "backbone.stem.norm"),
    Rename("patch_embed{s+2}.proj.{leaf}", "backbone.stages.{s+1}.downsample.proj.{leaf}"),
    *norm_rules("patch_embed{s+2}.norm", "backbone.stages.{s+1}.downsample.norm"),
    *reduced_attention_rules(f"{BLOCK}.attn", BODY),
    Rename(f"{BLOCK}.mlp.dwconv.dwconv.{{leaf}}", f"{OURS}.mlp.body.conv.{{leaf}}"),
    *block_rules(BLOCK, OURS),
    Rename("head.{leaf}", "head.linear.{leaf}"),
)
PVT_V2 = KeyMap(*norm_rules("norm{s+1}", "backbone.stages.{s}.norm"), *PYRAMID, name="pvt_v2")


def pvt(config: BackboneConfig) -> KeyMap:
    """The map of a PVT: its class token is in the last stage, and its final norm may be one that nothing reads."""
    assert isinstance(config, PVT)
    return KeyMap(
        Rename("cls_token", f"backbone.stages.{len(config.depths) - 1}.class_token"),
        Rename("pos_embed{s+1}", "backbone.stages.{s}.position.table"),
        *norm_rules("norm", "backbone.spare_norm" if config.spare_norm else "head.norm"),
        *PYRAMID,
        name="pvt",
    )


register_layout("pvt", Layout(name="published", key_map=pvt, adapt=adapt))
register_layout("pvt_v2", Layout(name="published", key_map=PVT_V2, adapt=adapt))
