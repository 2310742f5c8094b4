"""The published layouts of ViT: that of DeiT, attention removal, SLAB and DINOv2, and that of timm."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from leanformer.checkpoints.keymap import Drop, KeyMap, Rename, Rule
from leanformer.models import BackboneConfig
from leanformer.models.backbone import patch_grid
from leanformer.models.vit import ViT
from leanformer.zoo.layouts.common import adapt, block_rules, norm_rules
from leanformer.zoo.weights import Layout, Shapes, register_layout


@dataclass(frozen=True, kw_only=True)
class TokenKeys:
    """What a layout calls the things that decide the form of a ViT."""

    class_token: str = "cls_token"
    distillation_token: str = "dist_token"
    registers: str
    position: str = "pos_embed"
    layer_scale: str = "ls1.gamma"
    """How the key of a layer scale ends."""


PUBLISHED = TokenKeys(registers="register_tokens")
TIMM = TokenKeys(registers="reg_token")


def fit_form(config: BackboneConfig, shapes: Shapes, keys: TokenKeys) -> ViT:
    """The config with the norms, tokens, positions and layer scales that a file holds."""
    vit = adapt(config, shapes)
    assert isinstance(vit, ViT)
    registers = shapes.get(keys.registers, (1, 0, 0))
    scaled = any(key.endswith(keys.layer_scale) for key in shapes)
    vit = replace(
        vit,
        registers=registers[1] if len(registers) == 3 else 0,
        distilled=vit.pool == "token" and keys.distillation_token in shapes,
        layer_scale=(vit.layer_scale or 1e-5) if scaled else None,
    )
    table = shapes.get(keys.position, ())
    return _fit_positions(vit, table[1]) if len(table) == 3 else vit


def _fit_positions(vit: ViT, entries: int) -> ViT:
    """The form whose map has as many places as a table of so many entries has for it."""
    forms = (vit, *(replace(vit, prefix_positions=form) for form in ("all", "read", "none")))
    places = {form: entries - form.positioned_tokens for form in forms}
    height, width = patch_grid(vit, vit.patch_size)
    exact = (form for form in forms if places[form] == height * width)
    square = (form for form in forms if places[form] > 0 and math.isqrt(places[form]) ** 2 == places[form])
    return next(exact, next(square, vit))


def removed_rules(config: ViT) -> tuple[Rule, ...]:
    """Attention that training left in the files of blocks without it is dropped, in those blocks alone."""
    parts = ("norm1", "attn")
    return tuple(Drop(f"blocks.{block}.{part}.{{rest}}") for block in config.removed for part in parts)


def _vit_map(config: BackboneConfig, keys: TokenKeys, name: str, *own: Rule, final_norm: str = "norm") -> KeyMap:
    assert isinstance(config, ViT)
    block = "backbone.stages.0.blocks.{b}"
    return KeyMap(
        *own,
        *removed_rules(config),
        Rename(keys.class_token, "backbone.class_token"),
        Rename(keys.distillation_token, "backbone.distillation_token"),
        Rename(keys.registers, "backbone.register_tokens"),
        Rename(keys.position, "backbone.position.table"),
        Rename("patch_embed.proj.{leaf}", "backbone.stem.proj.{leaf}"),
        Rename("blocks.{b}.ls1.gamma", f"{block}.attn.layer_scale.gamma"),
        Rename("blocks.{b}.ls2.gamma", f"{block}.mlp.layer_scale.gamma"),
        *block_rules("blocks.{b}", block),
        *norm_rules(final_norm, "head.norm"),
        Rename("head.{leaf}", "head.linear.{leaf}"),
        Rename("head_dist.{leaf}", "head.distillation.{leaf}"),
        name=name,
    )


def vit(config: BackboneConfig) -> KeyMap:
    """The map of DeiT's authors; DINOv2's files share it, with a token for masked patches that only training reads."""
    return _vit_map(config, PUBLISHED, "vit", Drop("mask_token"))


def timm_vit(config: BackboneConfig) -> KeyMap:
    """The map of timm, whose final norm has another name where it follows the pooling."""
    assert isinstance(config, ViT)
    return _vit_map(config, TIMM, "timm_vit", final_norm="fc_norm" if config.pool_first else "norm")


def _fit_published(config: BackboneConfig, shapes: Shapes) -> ViT:
    return fit_form(config, shapes, PUBLISHED)


def _fit_timm(config: BackboneConfig, shapes: Shapes) -> ViT:
    assert isinstance(config, ViT)
    pool = config.pool if TIMM.class_token in shapes else "mean"
    pool_first = pool == "mean" and "fc_norm.weight" in shapes
    return fit_form(replace(config, pool=pool, pool_first=pool_first), shapes, TIMM)


def _is_timm(shapes: Shapes) -> bool:
    mean_pooled = "blocks.0.norm2.weight" in shapes and TIMM.class_token not in shapes
    return mean_pooled or TIMM.registers in shapes or "fc_norm.weight" in shapes


register_layout("vit", Layout(name="published", key_map=vit, adapt=_fit_published))
register_layout("vit", Layout(name="timm", key_map=timm_vit, adapt=_fit_timm, recognizes=_is_timm))
