"""The layouts of SwiftFormer: its authors', timm's, and that of Hugging Face transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from leanformer.checkpoints.keymap import KeyMap, Rename, Reshape, Rule
from leanformer.config import PerStage
from leanformer.layers.attention import Additive, AttentionConfig
from leanformer.models import BackboneConfig
from leanformer.models.swiftformer import SwiftFormer
from leanformer.zoo.weights import Layout, Shapes, register_layout


@dataclass(frozen=True, kw_only=True)
class _Names:
    """What the layouts call things; in paths, {s} is the stage, {n} the place of its blocks in one list of blocks and
    downsamplings."""

    stem: str
    block: str
    downsample: str
    convs: tuple[str, str, str] = ("dwconv", "pwconv1", "pwconv2")
    context: str = "proj"
    gamma: str = ""
    distillation: str = "dist_head"


_PUBLISHED = _Names(stem="patch_embed", block="network.{n}.{{b}}", downsample="network.{n}", context="Proj")
_TIMM = _Names(
    stem="stem",
    block="stages.{s}.blocks.{{b}}",
    downsample="stages.{s}.downsample",
    gamma=".gamma",
    distillation="head_dist",
)
_HUGGING_FACE = _Names(
    stem="swiftformer.patch_embed.patch_embedding",
    block="swiftformer.encoder.network.{n}.blocks.{{b}}",
    downsample="swiftformer.encoder.network.{n}",
    convs=("depth_wise_conv", "point_wise_conv1", "point_wise_conv2"),
)


def _key_map(config: BackboneConfig, names: _Names, name: str) -> KeyMap:
    assert isinstance(config, SwiftFormer)
    rules: list[Rule] = []
    for index, part in enumerate(("first.proj", "first.norm", None, "second.proj", "second.norm")):
        if part is not None:
            rules.append(Rename(f"{names.stem}.{index}.{{rest}}", f"backbone.stem.{part}.{{rest}}"))
    for stage in range(len(config.depths)):
        ours = f"backbone.stages.{stage}"
        rules += _block(names.block.format(s=stage, n=2 * stage), f"{ours}.blocks.{{b}}", names)
        down = names.downsample.format(s=stage, n=2 * stage - 1)
        for part in ("proj", "norm") if stage else ():
            rules.append(Rename(f"{down}.{part}.{{rest}}", f"{ours}.downsample.{part}.{{rest}}"))
    rules += [
        Rename("norm.{rest}", "head.norm.{rest}"),
        Rename("head.{leaf}", "head.linear.{leaf}"),
        Rename(f"{names.distillation}.{{leaf}}", "head.distillation.{leaf}"),
    ]
    return KeyMap(*rules, name=name)


def _block(published: str, ours: str, names: _Names) -> list[Rule]:
    """An encoder of either sort; which it is shows in the names."""
    attention, body = f"{published}.attn", f"{ours}.attn.body"
    return [
        *_local(f"{published}.local_representation", f"{ours}.position", names),
        Rename(f"{attention}.w_g", f"{body}.token_weight"),
        Rename(f"{attention}.to_query.{{leaf}}", f"{body}.q.{{leaf}}"),
        Rename(f"{attention}.to_key.{{leaf}}", f"{body}.k.{{leaf}}"),
        Rename(f"{attention}.{names.context}.{{leaf}}", f"{body}.context.{{leaf}}"),
        Rename(f"{attention}.final.{{leaf}}", f"{body}.proj.{{leaf}}"),
        Rename(f"{published}.linear.norm1.{{rest}}", f"{ours}.mlp.norm.{{rest}}"),
        *_pointwise(f"{published}.linear.fc1", f"{ours}.mlp.body.fc1"),
        *_pointwise(f"{published}.linear.fc2", f"{ours}.mlp.body.fc2"),
        _scale(f"{published}.layer_scale_1{names.gamma}", f"{ours}.attn"),
        _scale(f"{published}.layer_scale_2{names.gamma}", f"{ours}.mlp"),
        *_local(published, ours, names),
    ]


def _local(published: str, ours: str, names: _Names) -> list[Rule]:
    depthwise, first, second = names.convs
    return [
        Rename(f"{published}.{depthwise}.{{leaf}}", f"{ours}.body.conv.{{leaf}}"),
        Rename(f"{published}.norm.{{rest}}", f"{ours}.body.norm.{{rest}}"),
        *_pointwise(f"{published}.{first}", f"{ours}.body.mlp.fc1"),
        *_pointwise(f"{published}.{second}", f"{ours}.body.mlp.fc2"),
        _scale(f"{published}.layer_scale{names.gamma}", ours),
    ]


def _pointwise(published: str, ours: str) -> list[Rule]:
    """A convolution of one place as a linear layer on tokens."""
    return [
        Reshape(f"{published}.weight", f"{ours}.weight", "o i 1 1 -> o i"),
        Rename(f"{published}.bias", f"{ours}.bias"),
    ]


def _scale(published: str, ours: str) -> Rule:
    return Reshape(published, f"{ours}.layer_scale.gamma", "c 1 1 -> c")


def _adapt(config: BackboneConfig, shapes: Shapes) -> BackboneConfig:
    """As many classifiers as the file has."""
    return replace(config, distilled="dist_head.weight" in shapes or "head_dist.weight" in shapes)


def _adapt_first_generation(config: BackboneConfig, shapes: Shapes) -> BackboneConfig:
    """transformers computes the first generation of the attention, and its files were trained with that."""
    assert isinstance(config, SwiftFormer)
    return replace(_adapt(config, shapes), attention=_equal_shares(config.attention))


def _equal_shares(attention: PerStage[AttentionConfig]) -> PerStage[AttentionConfig]:
    if isinstance(attention, tuple):
        return tuple(_equal_shares(entry) for entry in attention)  # type: ignore[return-value]
    return replace(attention, token_norm="ones") if isinstance(attention, Additive) else attention


register_layout(
    "swiftformer",
    Layout(name="published", key_map=lambda config: _key_map(config, _PUBLISHED, "swiftformer"), adapt=_adapt),
)
register_layout(
    "swiftformer",
    Layout(
        name="timm",
        key_map=lambda config: _key_map(config, _TIMM, "swiftformer_timm"),
        adapt=_adapt,
        recognizes=lambda shapes: "stem.0.weight" in shapes,
    ),
)
register_layout(
    "swiftformer",
    Layout(
        name="hugging_face",
        key_map=lambda config: _key_map(config, _HUGGING_FACE, "swiftformer_hugging_face"),
        adapt=_adapt_first_generation,
        recognizes=lambda shapes: any(key.startswith("swiftformer.") for key in shapes),
    ),
)
