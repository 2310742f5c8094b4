"""Published backbones for dense tasks: SLAB's detection trunks where they differ from its classifiers, and the files of
every family (https://arxiv.org/abs/2405.11582, https://arxiv.org/abs/2501.16182, https://arxiv.org/abs/2303.15446)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from leanformer.checkpoints import runs
from leanformer.checkpoints.resize import fit_positions
from leanformer.checkpoints.strict import load_strict
from leanformer.errors import CheckpointError, ConfigError
from leanformer.models import BackboneConfig, ImageClassifier, register
from leanformer.models.dense import LevelNorms, PyramidFeatures
from leanformer.models.swin import Swin, swin_small
from leanformer.zoo import resolve
from leanformer.zoo.layouts.dense import dense_layout, dense_map, head_keys
from leanformer.zoo.load import check_tensors
from leanformer.zoo.resolve import Pretrained, find_pretrained
from leanformer.zoo.slab import SWIN_NORMS, slab_swin_small, slab_swin_tiny, swin_tiny_prepbn
from leanformer.zoo.weights import OURS, full_name, layout_of, layouts_of

logger = logging.getLogger(__name__)
_BACKBONE = "backbone."


@register
def slab_swin_tiny_dense() -> Swin:
    """SLAB-Swin-T for detection: linear attention in windows of 56 and 28 that shift without a mask."""
    return _shifting(slab_swin_tiny(), drop_path=0.1)


@register
def slab_swin_small_dense() -> Swin:
    """SLAB-Swin-S for detection: linear attention in windows of 56 and 28 that shift without a mask."""
    return _shifting(slab_swin_small(), drop_path=0.2)


@register
def swin_tiny_prepbn_dense() -> Swin:
    """Swin-T with progressive RepBN for detection: windows shift on the coarsest map too."""
    return replace(swin_tiny_prepbn(), fit_windows=False, drop_path=0.1)


@register
def swin_small_prepbn_dense() -> Swin:
    """Swin-S with progressive RepBN for detection: windows shift on the coarsest map too."""
    return replace(swin_small(), norms=SWIN_NORMS, fit_windows=False, drop_path=0.2)


def _shifting(base: Swin, drop_path: float) -> Swin:
    return replace(base, window_size=(56, 28, 7, 7), unmasked_shift=True, fit_windows=False, drop_path=drop_path)


def build_pyramid(
    model: str | BackboneConfig,
    *,
    levels: Sequence[int] | None = None,
    norms: LevelNorms | Literal["published"] = "published",
) -> PyramidFeatures:
    """A randomly initialised backbone for dense tasks.

    Args:
        model: a registered name, a timm name or a config. `<name>_dense` is meant where there is one.
        levels: the stages whose maps are given, from 0; None for all.
        norms: behind the maps; "published" for those of the family's published files.
    """
    config = resolve.find_config(model) if isinstance(model, str) else model
    layout = dense_layout(config)
    chosen = layout.level_norm if norms == "published" else norms
    return PyramidFeatures(config.build(), chosen, levels, freeze_statistics=layout.freeze_statistics)


def load_pyramid(
    model: str | Path | BackboneConfig,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    *,
    levels: Sequence[int] | None = None,
    norms: LevelNorms | Literal["published"] = "published",
    ema: bool = False,
    backbone_only: bool = False,
) -> PyramidFeatures:
    """A trained backbone for dense tasks, in eval mode: of a run directory, or with published weights, strictly.

    A file is a dense-task backbone, a detector or segmenter with one, or a classifier: under the names of its authors,
    of timm, of Hugging Face or of ours. A classifier has no norms behind its levels: those keep their initial values,
    which is logged. Learned positions are resized where they must be.

    Args:
        model: a registered name, a timm name (`timm/swin_tiny_patch4_window7_224`), a config, or a classifier's run
            directory, which gives its backbone with its edits.
        weights: a file, its tensors under their published key names, the name of published weights, or the run
            directory of a classifier; None for those published for a name, fetched if need be.
        levels: the stages whose maps are given, from 0; None for all.
        norms: behind the maps; "published" for those of the family's published files.
        ema: take the averaged copy of the weights from a file that has one.
        backbone_only: leave out the other parts of a detector or segmenter, which are refused otherwise.

    Raises:
        ConfigError: for an unknown name, `ema` with tensors or a run, or a run directory with other weights.
        CheckpointError: for files that cannot be read or fetched, or do not fit, key by key.
    """
    if not isinstance(model, BackboneConfig):
        kind = resolve.kind_of(model, with_weights=weights is not None)
        if kind not in ("name", "timm") and weights is not None:
            raise ConfigError(f"{model} is a model with weights of its own; give a model's name with others")
        if kind == "folder":
            _refuse_ema(ema)
            return _of_classifier(runs.load(model), levels, norms, str(model))
        if kind == "exported":
            raise ConfigError(f"{model} is an exported file; give the run directory that it came from")
    config, found = _find(model, weights, ema)
    source = found.source
    check_tensors(found.tensors, source)
    tensors = _backbone_part(found.tensors, source, backbone_only)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    config = layout_of(config, shapes).adapt(config, shapes)
    key_map = dense_map(config, shapes)
    pyramid = build_pyramid(config, levels=levels, norms=norms)
    try:
        ours = fit_positions(key_map.to_ours(tensors, source=source), pyramid)
    except CheckpointError as error:
        known = ", ".join(layout.name for layout in layouts_of(config))
        raise CheckpointError(
            f"{error}\n  files of {config.kind!r} are read here under the names of dense tasks, and of classifiers in "
            f"these layouts: {known}, ours"
        ) from error
    if head_keys(config, shapes):
        initial = {name: value for name, value in pyramid.state_dict().items() if name.startswith("norms.")}
        ours = {**initial, **ours}
        _say_untrained(pyramid, source)
    load_strict(pyramid, ours, source=source, key_map_name=key_map.name)
    return pyramid.eval()


def _find(
    model: str | Path | BackboneConfig, weights: str | Path | Mapping[str, Tensor] | None, ema: bool
) -> tuple[BackboneConfig, Pretrained]:
    """The config that is meant, and its weights."""
    if isinstance(model, BackboneConfig):
        config, name = model, None
    elif resolve.kind_of(model, with_weights=weights is not None) == "hub_folder":
        return resolve.open_hub_folder(Path(model), ema=ema)
    else:
        config, name = resolve.find_config(str(model)), str(model)
    if isinstance(weights, (str, Path)) and Path(weights).is_dir() and resolve.kind_of(Path(weights)) == "folder":
        _refuse_ema(ema)
        return config, Pretrained(name=None, tensors=_tensors_of_run(weights), source=str(weights))
    if weights is None and name is not None and full_name(name) is None and "/" not in name:
        classifiers = full_name(name.removesuffix("_dense"))
        hint = f"those of its classifier fill it: weights={classifiers!r}, or give" if classifiers else "give"
        raise CheckpointError(
            f"{name} has no published weights of its own; {hint} a file or a run directory (weights=)"
        )
    # Given weights stand for themselves: what is known of a name's own files does not describe them.
    return config, find_pretrained(name if weights is None else None, weights, ema=ema)


def _tensors_of_run(directory: str | Path) -> dict[str, Tensor]:
    classifier = runs.load(directory)
    if classifier.edits:
        edits = ", ".join(edit.kind for edit in classifier.edits)
        raise CheckpointError(f"{directory} was edited ({edits}) and fits no config; give it as the model itself")
    return classifier.state_dict()


def _of_classifier(
    classifier: ImageClassifier,
    levels: Sequence[int] | None,
    norms: LevelNorms | Literal["published"],
    source: str,
) -> PyramidFeatures:
    layout = dense_layout(classifier.config)
    chosen = layout.level_norm if norms == "published" else norms
    pyramid = PyramidFeatures(classifier.backbone, chosen, levels, freeze_statistics=layout.freeze_statistics)
    _say_untrained(pyramid, source)
    return pyramid.eval()


def _say_untrained(pyramid: PyramidFeatures, source: str) -> None:
    if len(pyramid.norms):
        logger.warning("%s is a classifier: the norms of %d levels are untrained", source, len(pyramid.norms))


def _refuse_ema(ema: bool) -> None:
    if ema:
        raise ConfigError("ema picks a copy in a published file; a run directory holds one copy")


def _backbone_part(tensors: Mapping[str, Tensor], source: str, backbone_only: bool) -> dict[str, Tensor]:
    """The tensors of a detector's backbone under the names they have there."""
    if OURS.recognizes(dict.fromkeys(tensors, ())):
        return dict(tensors)
    if not any(key.startswith(_BACKBONE) for key in tensors):
        return dict(tensors)
    others = sorted({key.partition(".")[0] for key in tensors if not key.startswith(_BACKBONE)})
    if others and not backbone_only:
        raise CheckpointError(
            f"{source}: besides a backbone it holds {', '.join(others)}; backbone_only=True leaves them out"
        )
    return {key.removeprefix(_BACKBONE): value for key, value in tensors.items() if key.startswith(_BACKBONE)}
