"""What a person means by a model: a registered name, a timm name, a run directory, a folder of the Hub, an exported
file.

The library, the command line and training all ask here, so that a name means the same to each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from leanformer.checkpoints import files, runs
from leanformer.checkpoints.fetch import fetch
from leanformer.config import replace_at
from leanformer.errors import CheckpointError, ConfigError
from leanformer.models import BackboneConfig, ImageClassifier, find, list_models
from leanformer.zoo import timm_hub
from leanformer.zoo.hf_folder import read_hf_config, read_hf_preprocess
from leanformer.zoo.load import load_published
from leanformer.zoo.transfer import read_class_map
from leanformer.zoo.weights import Weights, all_published, full_name, published

Kind = Literal["name", "timm", "folder", "hub_folder", "exported"]
Source = str | Path | Mapping[str, Tensor]
"""Where weights come from: a file, or tensors under their published names."""

EXPORTED = frozenset({".aoti.pt2", ".mlpackage", ".onnx", ".pt2", ".pte", ".xml"})
"""Ends of the names of exported files: those of `leanformer.export.SUFFIXES`."""


def kind_of(model: str | Path, *, with_weights: bool = False) -> Kind:
    """What `model` is.

    A folder that exists wins over a name, unless weights are given for the name; a path with a slash is a folder even
    where there is none, unless it begins with `timm/`.
    """
    path = Path(model)
    if path.suffix in EXPORTED:
        return "exported"
    is_timm = isinstance(model, str) and model.startswith(timm_hub.PREFIX)
    if with_weights and is_timm:
        return "timm"
    if with_weights and str(model).partition(".")[0] in list_models():
        return "name"
    if path.is_dir():
        return "hub_folder" if not (path / runs.RECORD).is_file() and _is_hub_folder(path) else "folder"
    if isinstance(model, Path):
        return "folder"
    if is_timm:
        return "timm"
    return "folder" if "/" in model else "name"


def is_stored(model: str) -> bool:
    """Whether `model` is a finished model on the disk, not the name of one that can be built."""
    return kind_of(model) not in ("name", "timm") or Path(model).exists()


def find_config(name: str) -> BackboneConfig:
    """The config of a registered or a timm name.

    Raises:
        ConfigError: if there is no such model, naming the nearest ones.
    """
    return timm_hub.find_timm(name).config() if name.startswith(timm_hub.PREFIX) else find(name)


def change(config: BackboneConfig, overrides: Mapping[str, Any]) -> BackboneConfig:
    """The config with some of its fields changed."""
    for field, value in overrides.items():
        config = replace_at(config, field, value)
    return config


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights and what is known of them."""

    name: str | None
    """The model's, if it has one."""
    tensors: Mapping[str, Tensor]
    source: str
    """What messages call them: the file."""
    record: Weights | None = None


def find_pretrained(name: str | None, weights: Source | None = None, *, ema: bool = False) -> Pretrained:
    """The weights of a registered or timm name: those given, or the published ones, fetched if need be.

    Args:
        weights: a file, a folder of the Hub, tensors, or the name of other published weights that fit.
        ema: take the averaged copy from a file that has one.

    Raises:
        ConfigError: for an unknown tag, or `ema` with tensors.
        CheckpointError: if they cannot be read, or fetched: then with what to do by hand.
    """
    if isinstance(weights, (str, Path)):
        if _names_weights(str(weights)):
            return replace(find_pretrained(str(weights), ema=ema), name=name)
        if kind_of(weights) == "hub_folder":
            weights = Path(weights) / timm_hub.TENSORS
    record = None
    if name is not None and name.startswith(timm_hub.PREFIX):
        description = None
        if weights is None:
            weights, description = timm_hub.hub_files(name)
        elif not isinstance(weights, Mapping):
            description = Path(weights).with_name(timm_hub.RECORD)
        record = timm_hub.describe_timm(name, description)
    elif name is not None:
        record = published(name)
    if weights is None:
        weights = _fetched(name, record)
    if isinstance(weights, Mapping):
        if ema:
            raise ConfigError("ema picks a copy in a file; of tensors give those that are meant")
        return Pretrained(
            name=name,
            tensors=weights,
            source=f"the tensors given for {name}" if name else "the tensors given",
            record=record,
        )
    return Pretrained(name=name, tensors=files.read_weights(weights, ema=ema), source=str(weights), record=record)


def open_hub_folder(folder: Path, *, ema: bool = False) -> tuple[BackboneConfig, Pretrained]:
    """Config and weights of a folder of the Hugging Face Hub, timm's or transformers'.

    Raises:
        ConfigError: if it holds a timm model that has no config here.
        CheckpointError: if its files cannot be read.
    """
    weights = folder / timm_hub.TENSORS
    name = timm_hub.folder_model(folder)
    if name is not None:
        return find_config(name), find_pretrained(name, weights, ema=ema)
    config = read_hf_config(folder / timm_hub.RECORD)
    assert config is not None, folder
    record = Weights(page=str(folder), preprocess=read_hf_preprocess(folder / "preprocessor_config.json", config))
    tensors = files.read_weights(weights, ema=ema)
    return config, Pretrained(name=None, tensors=tensors, source=str(weights), record=record)


def load_pretrained(
    found: Pretrained,
    config: BackboneConfig,
    *,
    resize: bool = False,
    num_classes: int | None = None,
    class_map: str | Path | Sequence[int] | None = None,
) -> ImageClassifier:
    """The model of `config` with the weights `found`, and the preprocessing and license that belong to them.

    The options are those of `load_published`; `class_map` may be a file of one index on each line.
    """
    rows = read_class_map(class_map) if isinstance(class_map, (str, Path)) else class_map
    model = load_published(
        config,
        found.tensors,
        source=found.source,
        name=found.name,
        resize=resize,
        made_for=find_config(found.name) if resize and found.name else None,
        num_classes=num_classes,
        class_map=rows,
    )
    if found.record is not None:
        model.preprocess = replace(found.record.preprocess, image_size=model.config.image_grid)
    model.origin = {"from": found.source, "license": found.record.license if found.record else None, **model.origin}
    return model


def _is_hub_folder(folder: Path) -> bool:
    record = folder / timm_hub.RECORD
    if not (folder / timm_hub.TENSORS).is_file() or not record.is_file():
        return False
    return timm_hub.folder_model(folder) is not None or read_hf_config(record) is not None


def _names_weights(text: str) -> bool:
    """Whether `text` is no file but the name of published weights."""
    return not Path(text).exists() and (text.startswith(timm_hub.PREFIX) or text in all_published())


def _fetched(name: str | None, record: Weights | None) -> Path:
    if name is None or record is None:
        asked = name or "a config"
        raise CheckpointError(f"{asked} has no published weights; give a file (weights= or --weights), or train it")
    full = full_name(name)
    assert full is not None
    return fetch(record.remote(full))
