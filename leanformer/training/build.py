"""The model that a run trains: built for the classes of its data, and filled with the weights it starts from."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from leanformer import edits
from leanformer.checkpoints import runs
from leanformer.checkpoints.resize import fit_positions
from leanformer.checkpoints.strict import load_strict
from leanformer.config import replace_at, to_dict
from leanformer.errors import ConfigError
from leanformer.layers.block import BlockSequence
from leanformer.models import BackboneConfig, ImageClassifier, Preprocess
from leanformer.training.config import Execution, ModelSpec
from leanformer.training.groups import matching
from leanformer.zoo import resolve
from leanformer.zoo.transfer import CLASSIFIERS, pick_rows, read_class_map

log = logging.getLogger(__name__)


def build_model(spec: ModelSpec, classes: tuple[str, ...], preprocess: Preprocess | None = None) -> ImageClassifier:
    """The model of `spec` for the given classes, with the edits of the model that it starts from and its own.

    Args:
        preprocess: how its images are prepared, whatever the image size in it; None: as for the weights it starts from.

    Raises:
        ConfigError: for an unknown name or field, or a value that the backbone cannot take.
        CheckpointError: if the weights do not fit, key by key.
    """
    config = spec.config if spec.name is None else resolve.find_config(spec.name)
    assert config is not None
    for field, value in spec.overrides:
        if field == "num_classes":
            raise ConfigError(
                f"num_classes comes from the data, which has {len(classes)}; leave it out of the overrides"
            )
        config = replace_at(config, field, value)
    model = ImageClassifier(replace(config, num_classes=len(classes)), spec.name)
    model.set_classes(classes)
    if spec.weights is not None:
        source = _source(spec, model.config)
        _check_norms(spec, source, model)
        edits.replay(model, source.edits)
        wanted = _wanted(spec, source, model)
        fitted = fit_positions(wanted, model, source)
        load_strict(model, fitted, source=spec.weights)
        log.info("%s", _started_from(spec, source, model, sum(fitted[k] is not v for k, v in wanted.items())))
        preprocess = preprocess or source.preprocess
    if preprocess is not None:
        model.preprocess = replace(preprocess, image_size=model.config.image_grid)
    edits.apply(model, *spec.edits)
    parameters = dict(model.named_parameters())
    for name in matching(parameters, spec.freeze, "freeze"):
        parameters[name].requires_grad_(False)
    return model


def execute(model: ImageClassifier, execution: Execution) -> nn.Module:
    """What computes `model` as `execution` says; the model keeps the weights."""
    if execution.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, BlockSequence):
            module.checkpointing = execution.checkpointing
    return cast(nn.Module, torch.compile(model)) if execution.compile else model


def _check_norms(spec: ModelSpec, source: ImageClassifier, model: ImageClassifier) -> None:
    """Refuse weights of other norms, such as a published file of bare RepBN for a model that blends to it."""
    found, wanted = (to_dict(classifier.config.norms) for classifier in (source, model))
    lines = [f"{place}: {found[place]} -> {wanted[place]}" for place in wanted if found[place] != wanted[place]]
    if lines:
        raise ConfigError(
            f"{spec.weights} holds other norms than the model ({'; '.join(lines)}); "
            "train a config with the norms of the file: ModelSpec(config=replace(find(name), norms=...), weights=...)"
        )


def _source(spec: ModelSpec, config: BackboneConfig) -> ImageClassifier:
    """The finished model in the run directory that `spec.weights` names, or that of `config` with published weights,
    its positions resized."""
    assert spec.weights is not None
    if Path(spec.weights).is_dir() and resolve.kind_of(spec.weights) == "folder":
        return runs.load(spec.weights)
    found = resolve.find_pretrained(spec.name, spec.weights)
    return resolve.load_pretrained(found, replace(config, num_classes=0), resize=True)  # the file has its own classes


def _started_from(spec: ModelSpec, source: ImageClassifier, model: ImageClassifier, num_resized: int) -> str:
    had, has = source.config.num_classes, model.config.num_classes
    if spec.class_map is not None:
        classifier = f"{has} of its classifier's {had} rows, picked by {spec.class_map}"
    elif _same_classes(source, model):
        classifier = "its classifier is kept"
    else:
        classifier = f"a new classifier of {has} classes" + (f" in place of {had}" if had else "")
    resized = f"; {num_resized} position tables resized" if num_resized else ""
    return f"started from {spec.weights}: {classifier}{resized}"


def _same_classes(source: ImageClassifier, model: ImageClassifier) -> bool:
    return source.config.num_classes == model.config.num_classes and source.classes in (None, model.classes)


def _wanted(spec: ModelSpec, source: ImageClassifier, model: ImageClassifier) -> dict[str, Tensor]:
    """The source's tensors; where it tells other classes apart, the rows of its classifier that a class map names, or
    the model's own classifier instead."""
    tensors = dict(source.state_dict())
    if spec.class_map is not None:
        rows, has = read_class_map(spec.class_map), model.config.num_classes
        if len(rows) != has:
            raise ConfigError(
                f"the class map {spec.class_map} has {len(rows)} entries and the data {has} classes; give one row for "
                "each class, in the order of the classes"
            )
        return pick_rows(tensors, rows, source.config.num_classes, str(spec.weights))
    if not _same_classes(source, model):
        tensors = {name: value for name, value in tensors.items() if not name.startswith(CLASSIFIERS)}
        tensors |= {name: value for name, value in model.state_dict().items() if name.startswith(CLASSIFIERS)}
    return tensors
