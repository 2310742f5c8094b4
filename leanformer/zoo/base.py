"""The published layouts of plain DeiT and Swin, which SLAB's and FLatten's files extend, and the weights of the plain
models.

One key map for each family covers all of them: the systems add keys of their own (`dwc`, `positional_encoding`,
`scale`) and other norms under the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from leanformer.checkpoints.keymap import Drop, KeyMap, Rename, Rule, ScheduleCounters
from leanformer.layers.norm import NormConfig, Norms, PRepBN, RepBN
from leanformer.models import BackboneConfig, Preprocess
from leanformer.zoo.weights import Layout, Weights, publish, register_layout


def norm_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """A norm in any of its published forms: LayerNorm, bare RepBN (`alpha`, `bn`), progressive (`norm1`, `norm2`,
    counters)."""
    return (
        Rename(f"{published}.norm1.{{leaf}}", f"{ours}.start.{{leaf}}"),
        Rename(f"{published}.norm2.{{rest}}", f"{ours}.rep.{{rest}}"),
        ScheduleCounters(published, ours),
        Rename(f"{published}.{{rest}}", f"{ours}.{{rest}}"),
    )


def block_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """One block of DeiT or Swin, with softmax, simplified or focused attention."""
    attention, kernel = f"{published}.attn", f"{ours}.attn.body.kernel"
    return (
        *norm_rules(f"{published}.norm1", f"{ours}.attn.norm"),
        *norm_rules(f"{published}.norm2", f"{ours}.mlp.norm"),
        Drop(f"{published}.attn_mask"),
        Drop(f"{attention}.relative_position_index"),
        Rename(f"{attention}.relative_position_bias_table", f"{kernel}.bias.table"),
        Rename(f"{attention}.positional_encoding", f"{kernel}.key_position.table"),
        Rename(f"{attention}.dwc.{{leaf}}", f"{kernel}.local.conv.{{leaf}}"),
        Rename(f"{attention}.scale", f"{kernel}.scale"),
        Rename(f"{attention}.qkv.{{leaf}}", f"{ours}.attn.body.qkv.{{leaf}}"),
        Rename(f"{attention}.proj.{{leaf}}", f"{ours}.attn.body.proj.{{leaf}}"),
        Rename(f"{published}.mlp.{{rest}}", f"{ours}.mlp.body.{{rest}}"),
    )


VIT = KeyMap(
    Rename("cls_token", "backbone.class_token"),
    Rename("pos_embed", "backbone.position.table"),
    Rename("patch_embed.proj.{leaf}", "backbone.stem.proj.{leaf}"),
    *block_rules("blocks.{b}", "backbone.stages.0.blocks.{b}"),
    *norm_rules("norm", "head.norm"),
    Rename("head.{leaf}", "head.linear.{leaf}"),
    name="vit",
)

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


def adapt(config: BackboneConfig, shapes: Mapping[str, tuple[int, ...]]) -> BackboneConfig:
    """The config with the norms that a file holds: SLAB's files have RepBN bare or with the LayerNorm it grew from."""
    if any(key.endswith("norm1.norm2.alpha") for key in shapes):
        start = type(config)().norms.block
        return _with_norms(config, RepBN, lambda norm: PRepBN(start=start, eps=norm.eps))
    if any(key.endswith("norm1.alpha") for key in shapes):
        return _with_norms(config, PRepBN, lambda norm: RepBN(eps=norm.eps))
    return config


def _with_norms(config: BackboneConfig, old: type[NormConfig], new: Callable[[Any], NormConfig]) -> BackboneConfig:
    places = {place.name: getattr(config.norms, place.name) for place in fields(config.norms)}
    swapped = {name: new(norm) if isinstance(norm, old) else norm for name, norm in places.items()}
    return replace(config, norms=Norms(**swapped))


register_layout("vit", Layout(key_map=VIT, adapt=adapt))
register_layout("swin", Layout(key_map=SWIN, adapt=adapt))

_DEIT = "https://github.com/facebookresearch/deit"
_SWIN = "https://github.com/microsoft/Swin-Transformer"

for _name, _file, _top1 in (
    ("deit_tiny", "deit_tiny_patch16_224-a1311bcf.pth", 72.2),
    ("deit_small", "deit_small_patch16_224-cd65a155.pth", 79.9),
    ("deit_base", "deit_base_patch16_224-b5f2ef4d.pth", 81.8),
):
    publish(f"{_name}.in1k", Weights(page=_DEIT, file=_file, license="Apache-2.0", reported={"top1": _top1}))
for _name, _file, _top1 in (
    ("swin_tiny", "swin_tiny_patch4_window7_224.pth", 81.3),
    ("swin_small", "swin_small_patch4_window7_224.pth", 83.0),
    ("swin_base", "swin_base_patch4_window7_224.pth", 83.5),
):
    _weights = Weights(
        page=_SWIN, file=_file, license="MIT", reported={"top1": _top1}, preprocess=Preprocess(interpolation="bicubic")
    )
    publish(f"{_name}.in1k", _weights)
