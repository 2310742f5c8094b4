"""The published layout of L2ViT."""

from leanformer.checkpoints.keymap import KeyMap, Rename
from leanformer.zoo.layouts.common import adapt, block_rules, norm_rules
from leanformer.zoo.weights import Layout, register_layout

_BLOCK, _OURS = "stages.{s}.{b}", "backbone.stages.{s}.blocks.{b}"

L2VIT = KeyMap(
    # The stem is one sequence of convolutions, batch norms and ReLUs: the convolutions are 0 and 3, or 0, 3, 6 and 9.
    *(Rename(f"downsample_layers.0.proj.proj.{3 * i}.{{leaf}}", f"backbone.stem.convs.{i}.{{leaf}}") for i in range(4)),
    *(
        Rename(f"downsample_layers.0.proj.proj.{3 * i + 1}.{{leaf}}", f"backbone.stem.bns.{i}.{{leaf}}")
        for i in range(3)
    ),
    Rename("downsample_layers.0.proj.{leaf}", "backbone.stem.proj.{leaf}"),
    *norm_rules("downsample_layers.0.norm", "backbone.stem.norm"),
    *norm_rules("downsample_layers.{s}.norm", "backbone.stages.{s}.downsample.norm"),
    Rename("downsample_layers.{s}.proj.{leaf}", "backbone.stages.{s}.downsample.proj.{leaf}"),
    Rename(f"{_BLOCK}.cpe.0.proj.{{leaf}}", f"{_OURS}.position.{{leaf}}"),
    Rename(f"{_BLOCK}.cpe.1.proj.{{leaf}}", f"{_OURS}.mlp_position.{{leaf}}"),
    Rename(f"{_BLOCK}.attn.temperature", f"{_OURS}.attn.body.kernel.temperature"),
    *norm_rules(f"{_BLOCK}.norm3", f"{_OURS}.local.norm"),
    Rename(f"{_BLOCK}.local_mp.{{rest}}", f"{_OURS}.local.body.{{rest}}"),
    *block_rules(_BLOCK, _OURS),
    *norm_rules("norm", "head.norm"),
    Rename("last_proj.{leaf}", "head.proj.{leaf}"),
    Rename("head.{leaf}", "head.linear.{leaf}"),
    name="l2vit",
)

register_layout("l2vit", Layout(name="published", key_map=L2VIT, adapt=adapt))
