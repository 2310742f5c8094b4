"""Folders of Hugging Face transformers (https://github.com/huggingface/transformers): our configs from their
`config.json`, their preprocessing from `preprocessor_config.json`. transformers itself is not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from leanformer.checkpoints import files
from leanformer.errors import CheckpointError, ConfigError
from leanformer.models import BackboneConfig, Preprocess
from leanformer.models.pvt import PVTv2
from leanformer.models.swiftformer import SwiftFormer
from leanformer.models.swin import Swin
from leanformer.models.vit import ViT

_INTERPOLATIONS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers, which `resample` holds."""
_COMPUTED = {
    "hidden_act": "gelu",
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "down_patch_size": 3,
    "down_stride": 2,
    "down_pad": 1,
    "use_layer_scale": True,
    "use_swiglu_ffn": False,
}
"""Fields that no weight shows, with the one value that our models compute."""


def read_hf_config(path: Path) -> BackboneConfig | None:
    """The config of the model that a `config.json` describes, or None if it is none of transformers' that we have.

    Raises:
        CheckpointError: if a field is missing or makes no sense.
    """
    content = files.read_json(path)
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind not in _READERS:
        return None
    try:
        for name, value in _COMPUTED.items():
            if content.get(name, value) != value:
                raise ValueError(f"{name} is {content[name]!r}; leanformer's models have {value!r}")
        return _READERS[kind](content)
    except (TypeError, ValueError, LookupError, ConfigError) as error:
        raise CheckpointError(f"{path}: its model cannot be read ({type(error).__name__}: {error})") from error


def read_hf_preprocess(path: Path, config: BackboneConfig) -> Preprocess:
    """What a `preprocessor_config.json` says; the usual preprocessing if there is none.

    Raises:
        CheckpointError: if it makes no sense.
    """
    if not path.is_file():
        return Preprocess(image_size=config.image_grid)
    content = files.read_json(path)
    try:
        crop = content.get("crop_size") if content.get("do_center_crop") else None
        size = content.get("size", {})
        resized = size.get("shortest_edge") or size.get("height") if isinstance(size, dict) else int(size)
        kept = crop.get("height") if isinstance(crop, dict) else crop
        return Preprocess(
            image_size=config.image_grid,
            crop=min(kept / resized, 1.0) if kept and resized else 1.0,
            interpolation=_INTERPOLATIONS[content.get("resample", 3)],
            fit="shorter" if kept else "squash",
            mean=_triple(content["image_mean"]),
            std=_triple(content["image_std"]),
        )
    except (AttributeError, TypeError, ValueError, LookupError, ConfigError) as error:
        raise CheckpointError(f"{path}: its preprocessing cannot be read ({error})") from error


def _vit(content: Mapping[str, Any]) -> ViT:
    dim = content["hidden_size"]
    scaled = str(content["model_type"]).startswith("dinov2")
    return ViT(
        image_size=_side(content),
        patch_size=content["patch_size"],
        dim=dim,
        depth=content["num_hidden_layers"],
        num_heads=content["num_attention_heads"],
        mlp_ratio=content["mlp_ratio"] if scaled else content["intermediate_size"] / dim,
        qkv_bias=content.get("qkv_bias", True),
        layer_scale=1e-5 if scaled else None,
        registers=content.get("num_register_tokens", 0),
        prefix_positions="read" if scaled else "all",
        num_classes=0,
    )


def _swin(content: Mapping[str, Any]) -> Swin:
    depths = tuple(content["depths"])
    return Swin(
        image_size=_side(content),
        patch_size=content["patch_size"],
        dims=tuple(content["embed_dim"] << stage for stage in range(len(depths))),
        depths=depths,
        num_heads=tuple(content["num_heads"]),
        window_size=content["window_size"],
        mlp_ratio=content["mlp_ratio"],
        qkv_bias=content.get("qkv_bias", True),
        absolute_position=content.get("use_absolute_embeddings", False),
        num_classes=0,
    )


def _pvt_v2(content: Mapping[str, Any]) -> PVTv2:
    return PVTv2(
        image_size=_side(content),
        dims=tuple(content["hidden_sizes"]),
        depths=tuple(content["depths"]),
        num_heads=tuple(content["num_attention_heads"]),
        mlp_ratio=tuple(float(ratio) for ratio in content["mlp_ratios"]),
        reductions=tuple(content["sr_ratios"]),
        linear=content.get("linear_attention", False),
        qkv_bias=content.get("qkv_bias", True),
        num_classes=0,
    )


def _swiftformer(content: Mapping[str, Any]) -> SwiftFormer:
    return SwiftFormer(
        image_size=_side(content),
        dims=tuple(content["embed_dims"]),
        depths=tuple(content["depths"]),
        mlp_ratio=float(content.get("mlp_ratio", 4)),
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], BackboneConfig]] = {
    "vit": _vit,
    "deit": _vit,
    "dinov2": _vit,
    "dinov2_with_registers": _vit,
    "swin": _swin,
    "pvt_v2": _pvt_v2,
    "swiftformer": _swiftformer,
}


def _side(content: Mapping[str, Any]) -> int | tuple[int, int]:
    size = content["image_size"]
    return size if isinstance(size, int) else (int(size[0]), int(size[1]))


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
