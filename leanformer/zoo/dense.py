"""Published backbones for dense tasks: SLAB's detection trunks where they differ from its classifiers, and the files of
every family (https://arxiv.org/abs/2405.11582, https://arxiv.org/abs/2501.16182, https://arxiv.org/abs/2303.15446)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from leanformer.checkpoints.resize import fit_positions
from leanformer.checkpoints.strict import load_strict
from leanformer.errors import CheckpointError
from leanformer.models import BackboneConfig, find, register
from leanformer.models.dense import LevelNorms, PyramidFeatures
from leanformer.models.swin import Swin, swin_small
from leanformer.zoo.layouts.dense import dense_layout, dense_map, head_keys
from leanformer.zoo.load import check_tensors
from leanformer.zoo.resolve import find_pretrained
from leanformer.zoo.slab import SWIN_NORMS, slab_swin_small, slab_swin_tiny, swin_tiny_prepbn
from leanformer.zoo.weights import layout_of

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
        model: a registered name or a config. `<name>_dense` is meant where there is one.
        levels: the stages whose maps are given, from 0; None for all.
        norms: behind the maps; "published" for those of the family's published files.
    """
    config = find(model) if isinstance(model, str) else model
    layout = dense_layout(config)
    chosen = layout.level_norm if norms == "published" else norms
    return PyramidFeatures(config.build(), chosen, levels, freeze_statistics=layout.freeze_statistics)


def load_pyramid(
    model: str | BackboneConfig,
    weights: str | Path | Mapping[str, Tensor],
    *,
    levels: Sequence[int] | None = None,
    norms: LevelNorms | Literal["published"] = "published",
    ema: bool = False,
    backbone_only: bool = False,
) -> PyramidFeatures:
    """A backbone for dense tasks with published weights, strictly, in eval mode.

    A file is a dense-task backbone, a detector or segmenter with one, or a classifier. A classifier has no norms behind
    its levels: those keep their initial values, which is logged. Learned positions are resized where they must be.

    Args:
        model: a registered name or a config.
        weights: a file, its tensors under their published key names, or the name of published weights.
        levels: the stages whose maps are given, from 0; None for all.
        norms: behind the maps; "published" for those of the family's published files.
        ema: take the averaged copy of the weights from a file that has one.
        backbone_only: leave out the other parts of a detector or segmenter, which are refused otherwise.

    Raises:
        ConfigError: for `ema` with tensors.
        CheckpointError: for files that cannot be read or fetched, or do not fit, key by key.
    """
    config = find(model) if isinstance(model, str) else model
    found = find_pretrained(None, weights, ema=ema)
    source = found.source
    check_tensors(found.tensors, source)
    tensors = _backbone_part(found.tensors, source, backbone_only)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    config = layout_of(config).adapt(config, shapes)
    key_map = dense_map(config, shapes)
    pyramid = build_pyramid(config, levels=levels, norms=norms)
    ours = fit_positions(key_map.to_ours(tensors, source=source), pyramid)
    if head_keys(config, shapes):
        initial = {name: value for name, value in pyramid.state_dict().items() if name.startswith("norms.")}
        ours = {**initial, **ours}
        if initial:
            logger.warning("%s is a classifier: the norms of %d levels are untrained", source, len(pyramid.norms))
    load_strict(pyramid, ours, source=source, key_map_name=key_map.name)
    return pyramid.eval()


def _backbone_part(tensors: Mapping[str, Tensor], source: str, backbone_only: bool) -> dict[str, Tensor]:
    """The tensors of a detector's backbone under the names they have there."""
    if not any(key.startswith(_BACKBONE) for key in tensors):
        return dict(tensors)
    others = sorted({key.partition(".")[0] for key in tensors if not key.startswith(_BACKBONE)})
    if others and not backbone_only:
        raise CheckpointError(
            f"{source}: besides a backbone it holds {', '.join(others)}; backbone_only=True leaves them out"
        )
    return {key.removeprefix(_BACKBONE): value for key, value in tensors.items() if key.startswith(_BACKBONE)}
