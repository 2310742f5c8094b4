"""Rules that the layouts of several families share: norms in their published forms, and the usual block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from leanformer.checkpoints.keymap import Drop, Rename, Rule, ScheduleCounters
from leanformer.layers.norm import NormConfig, Norms, PRepBN, RepBN
from leanformer.models import BackboneConfig


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
