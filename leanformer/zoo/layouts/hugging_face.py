"""The layouts of Hugging Face transformers: queries, keys and values apart, and names of its own.

Files of classifiers put the family's name in front of the backbone's keys, files of backbones alone do not. The hub's
ViT and DeiT files ask for an eps of 1e-12 in their norms; ours keep the 1e-6 that the models were trained with.
"""

from __future__ import annotations

from collections.abc import Callable

from leanformer.checkpoints.keymap import Drop, JoinRows, KeyMap, Rename, Rule
from leanformer.models import BackboneConfig
from leanformer.zoo.layouts.common import adapt
from leanformer.zoo.layouts.vit import TokenKeys, fit_form
from leanformer.zoo.weights import Layout, Shapes, register_layout

_VIT_NAMES = {
    "layernorm_before": "attn.norm",
    "attention.output.dense": "attn.body.proj",
    "layernorm_after": "mlp.norm",
    "intermediate.dense": "mlp.body.fc1",
    "output.dense": "mlp.body.fc2",
}
_DINOV2_NAMES = {
    "norm1": "attn.norm",
    "attention.output.dense": "attn.body.proj",
    "norm2": "mlp.norm",
    "mlp.fc1": "mlp.body.fc1",
    "mlp.fc2": "mlp.body.fc2",
}
_PVT_V2_NAMES = {
    "layer_norm_1": "attn.norm",
    "attention.query": "attn.body.q",
    "attention.spatial_reduction": "attn.body.reduce",
    "attention.layer_norm": "attn.body.norm",
    "attention.proj": "attn.body.proj",
    "layer_norm_2": "mlp.norm",
    "mlp.dense1": "mlp.body.fc1",
    "mlp.dwconv.dwconv": "mlp.body.conv",
    "mlp.dense2": "mlp.body.fc2",
}


def _renames(published: str, ours: str, names: dict[str, str]) -> tuple[Rule, ...]:
    return tuple(Rename(f"{published}.{old}.{{leaf}}", f"{ours}.{new}.{{leaf}}") for old, new in names.items())


def _joined(published: str, parts: str, ours: str) -> JoinRows:
    return JoinRows(tuple(f"{published}.{part}.{{leaf}}" for part in parts.split()), f"{ours}.{{leaf}}")


def _vit_map(name: str, prefix: str, names: dict[str, str], classifier: str = "classifier") -> KeyMap:
    embeddings, block = f"{prefix}embeddings", f"{prefix}encoder.layer.{{b}}"
    ours = "backbone.stages.0.blocks.{b}"
    return KeyMap(
        Drop(f"{embeddings}.mask_token"),
        Drop(f"{prefix}pooler.dense.{{leaf}}"),
        Rename(f"{embeddings}.cls_token", "backbone.class_token"),
        Rename(f"{embeddings}.distillation_token", "backbone.distillation_token"),
        Rename(f"{embeddings}.register_tokens", "backbone.register_tokens"),
        Rename(f"{embeddings}.position_embeddings", "backbone.position.table"),
        Rename(f"{embeddings}.patch_embeddings.projection.{{leaf}}", "backbone.stem.proj.{leaf}"),
        _joined(f"{block}.attention.attention", "query key value", f"{ours}.attn.body.qkv"),
        Rename(f"{block}.layer_scale1.lambda1", f"{ours}.attn.layer_scale.gamma"),
        Rename(f"{block}.layer_scale2.lambda1", f"{ours}.mlp.layer_scale.gamma"),
        *_renames(block, ours, names),
        Rename(f"{prefix}layernorm.{{leaf}}", "head.norm.{leaf}"),
        Rename(f"{classifier}.{{leaf}}", "head.linear.{leaf}"),
        Rename("distillation_classifier.{leaf}", "head.distillation.{leaf}"),
        name=name,
    )


def _swin_map(name: str, prefix: str) -> KeyMap:
    layer = f"{prefix}encoder.layers.{{s}}"
    block, ours = f"{layer}.blocks.{{b}}", "backbone.stages.{s}.blocks.{b}"
    self_attention, downsample = f"{block}.attention.self", "backbone.stages.{s+1}.downsample"
    return KeyMap(
        Drop(f"{prefix}embeddings.mask_token"),
        Drop(f"{self_attention}.relative_position_index"),
        Rename(f"{prefix}embeddings.position_embeddings", "backbone.position.table"),
        Rename(f"{prefix}embeddings.patch_embeddings.projection.{{leaf}}", "backbone.stem.proj.{leaf}"),
        Rename(f"{prefix}embeddings.norm.{{leaf}}", "backbone.stem.norm.{leaf}"),
        Rename(f"{self_attention}.relative_position_bias_table", f"{ours}.attn.body.kernel.bias.table"),
        _joined(self_attention, "query key value", f"{ours}.attn.body.qkv"),
        *_renames(block, ours, _VIT_NAMES),
        Rename(f"{layer}.downsample.{{rest}}", f"{downsample}.{{rest}}"),
        Rename(f"{prefix}layernorm.{{leaf}}", "head.norm.{leaf}"),
        Rename("classifier.{leaf}", "head.linear.{leaf}"),
        name=name,
    )


def _pvt_v2_map(name: str, prefix: str) -> KeyMap:
    layer, stage = f"{prefix}encoder.layers.{{s}}", "backbone.stages.{s}"
    block, ours = f"{layer}.blocks.{{b}}", f"{stage}.blocks.{{b}}"
    following = f"{prefix}encoder.layers.{{s+1}}.patch_embedding", "backbone.stages.{s+1}.downsample"
    parts = {"proj": "proj", "layer_norm": "norm"}
    return KeyMap(
        *_renames(f"{prefix}encoder.layers.0.patch_embedding", "backbone.stem", parts),
        *_renames(*following, parts),
        _joined(f"{block}.attention", "key value", f"{ours}.attn.body.kv"),
        *_renames(block, ours, _PVT_V2_NAMES),
        Rename(f"{layer}.layer_norm.{{leaf}}", f"{stage}.norm.{{leaf}}"),
        Rename("classifier.{leaf}", "head.linear.{leaf}"),
        name=name,
    )


def _fit_vit(prefix: str) -> Callable[[BackboneConfig, Shapes], BackboneConfig]:
    keys = TokenKeys(
        class_token=f"{prefix}embeddings.cls_token",
        distillation_token=f"{prefix}embeddings.distillation_token",
        registers=f"{prefix}embeddings.register_tokens",
        position=f"{prefix}embeddings.position_embeddings",
        layer_scale="layer_scale1.lambda1",
    )
    return lambda config, shapes: fit_form(config, shapes, keys)


def _holds(*keys: str) -> Callable[[Shapes], bool]:
    return lambda shapes: all(key in shapes for key in keys)


def _register(
    kind: str,
    key_map: KeyMap,
    recognizes: Callable[[Shapes], bool],
    fit: Callable[[BackboneConfig, Shapes], BackboneConfig] = adapt,
) -> None:
    register_layout(kind, Layout(name=key_map.name, key_map=key_map, adapt=fit, recognizes=recognizes))


_CLASS_TOKEN, _FIRST = "embeddings.cls_token", "encoder.layer.0"
_register(
    "vit",
    _vit_map("hugging_face", "vit.", _VIT_NAMES),
    _holds(f"vit.{_CLASS_TOKEN}"),
    _fit_vit("vit."),
)
_register(
    "vit",
    _vit_map("hugging_face_deit", "deit.", _VIT_NAMES, classifier="cls_classifier"),
    _holds(f"deit.{_CLASS_TOKEN}"),
    _fit_vit("deit."),
)
_register(
    "vit",
    _vit_map("hugging_face_backbone", "", _VIT_NAMES),
    _holds(_CLASS_TOKEN, f"{_FIRST}.layernorm_before.weight"),
    _fit_vit(""),
)
_register(
    "vit",
    _vit_map("hugging_face_dinov2", "", _DINOV2_NAMES),
    _holds(_CLASS_TOKEN, f"{_FIRST}.norm1.weight"),
    _fit_vit(""),
)
for _family, _map, _key in (
    ("swin", _swin_map, "embeddings.patch_embeddings.projection.weight"),
    ("pvt_v2", _pvt_v2_map, "encoder.layers.0.patch_embedding.proj.weight"),
):
    _register(_family, _map("hugging_face", f"{_family}."), _holds(f"{_family}.{_key}"))
    _register(_family, _map("hugging_face_backbone", ""), _holds(_key))
