"""leanformer's models in timm: importing this module registers every model whose name timm lacks.

import leanformer.integrations.timm
model = timm.create_model("flatten_swin_tiny", num_classes=10, features_only=True)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from timm.models import (
    DefaultCfg,
    PretrainedCfg,
    adapt_input_conv,
    build_model_with_cfg,
    generate_default_cfgs,
    is_model,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from leanformer.api import list_models, load
from leanformer.config import replace_at
from leanformer.errors import CheckpointError, ConfigError, suggestion
from leanformer.integrations.timm_model import TimmClassifier
from leanformer.models import BackboneConfig, ImageClassifier, Preprocess, find
from leanformer.zoo.weights import Weights, all_published

__all__ = ["TimmClassifier", "register_missing"]
default_cfgs: dict[str, DefaultCfg] = {}
"""What timm knows of the weights of each model, by name."""

_FIELDS = {"in_chans": "in_channels", "img_size": "image_size", "drop_path_rate": "drop_path"}
_OWN = ("drop_rate", "global_pool")


def register_missing() -> list[str]:
    """Register the models whose names timm lacks; gives these names. Call it again after adding models of your own."""
    added = [name for name in list_models() if not is_model(name)]
    for name in added:
        default_cfgs.update(generate_default_cfgs(_pretrained_cfgs(name)))
        globals()[name] = register_model(_entrypoint(name))
    return added


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"leanformer's {name}."
    return create


def _create(
    name: str,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    dynamic_img_size: bool = True,
    **kwargs: Any,
) -> nn.Module:
    """The model as timm's builder finishes it; weights are read by leanformer unless timm was given a place of its
    own."""
    if not dynamic_img_size:
        raise ConfigError(f"dynamic_img_size=False: {name} takes images of any size; leave it out")
    if kwargs.get("feature_cls", "getter") != "getter":
        raise ConfigError(f"feature_cls={kwargs['feature_cls']!r}: {name} gives its features by 'getter'; leave it out")
    source = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    loaded = None
    if pretrained and not _is_foreign(name, source):
        size = {"image_size": _pair(kwargs["img_size"])} if "img_size" in kwargs else {}
        loaded = _load(f"{name}.{source.tag}" if source.tag else name, source.file, size)

    def build(**arguments: Any) -> TimmClassifier:
        return _build(name, loaded, arguments)

    return build_model_with_cfg(
        build,
        name,
        pretrained=pretrained and loaded is None,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        feature_cfg={"out_indices": None, "feature_cls": "getter"},
        **kwargs,
    )


def _load(name: str, file: str | None, changes: dict[str, Any]) -> ImageClassifier:
    try:
        return load(name, file, **changes)
    except CheckpointError as error:
        way = "" if file else "\n  for timm the file is given as pretrained_cfg_overlay={'file': PATH}"
        raise CheckpointError(f"{error}{way}") from error


def _build(name: str, loaded: ImageClassifier | None, arguments: dict[str, Any]) -> TimmClassifier:
    own = {key: arguments.pop(key) for key in _OWN if key in arguments}
    if loaded is None:
        return TimmClassifier(_changed(name, find(name), arguments), name, **own)
    num_classes = arguments.pop("num_classes", loaded.config.num_classes)
    model = TimmClassifier(_changed(name, loaded.config, arguments), name, **own)
    state = loaded.state_dict()
    if model.in_chans != loaded.config.in_channels:
        first = next(key for key, module in model.named_modules() if isinstance(module, nn.Conv2d))
        state[f"{first}.weight"] = adapt_input_conv(model.in_chans, state[f"{first}.weight"])
    model.load_state_dict(state)
    model.preprocess, model.origin, model.classes = loaded.preprocess, loaded.origin, loaded.classes
    if num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    return model


def _changed(name: str, config: BackboneConfig, arguments: dict[str, Any]) -> BackboneConfig:
    """The config with timm's arguments in it, or its own fields by their names."""
    known = {field.name for field in fields(config)}
    choices = sorted({"num_classes", *_FIELDS, *_OWN} | known - set(_FIELDS.values()))
    for key, value in arguments.items():
        field = _FIELDS.get(key, key)
        if field not in known:
            raise ConfigError(
                f"{name} takes no argument {key!r}{suggestion(key, choices)}; it takes {', '.join(choices)}"
            )
        config = replace_at(config, field, _pair(value) if key == "img_size" else value)
    return config


def _pair(size: Any) -> int | tuple[int, ...]:
    return size if isinstance(size, int) else tuple(size)


def _is_foreign(name: str, source: PretrainedCfg) -> bool:
    """Whether timm was given weights of its own: a state dict, a link or a place on the hub that we do not publish."""
    ours = {weights.url for key, weights in all_published().items() if key.partition(".")[0] == name}
    return bool(source.state_dict or source.source or source.hf_hub_id or (source.url and source.url not in ours))


def _pretrained_cfgs(name: str) -> dict[str, dict[str, Any] | PretrainedCfg]:
    config = find(name)
    records = {key: weights for key, weights in all_published().items() if key.partition(".")[0] == name}
    if not records:
        return {name: _pretrained_cfg(config, Preprocess())}
    return {key: _described(_pretrained_cfg(config, weights.preprocess), weights) for key, weights in records.items()}


def _pretrained_cfg(config: BackboneConfig, preprocess: Preprocess) -> PretrainedCfg:
    distilled = getattr(config, "distilled", False)
    return PretrainedCfg(
        input_size=(config.in_channels, *config.image_grid),
        num_classes=config.num_classes,
        crop_pct=preprocess.crop,
        crop_mode="squash" if preprocess.fit == "squash" else "center",
        interpolation=preprocess.interpolation,
        mean=preprocess.mean,
        std=preprocess.std,
        classifier=("head.linear", "head.distillation") if distilled else "head.linear",  # type: ignore[arg-type]
    )


def _described(described: PretrainedCfg, weights: Weights) -> PretrainedCfg:
    return replace(described, url=weights.url, license=weights.license, origin_url=weights.page)


register_missing()
