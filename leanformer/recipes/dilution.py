"""What belongs to a run whose model is diluted (`DiluteAttention`): attention fades out, and is removed at the end."""

from __future__ import annotations

import logging
from dataclasses import replace

from leanformer.edits import DiluteAttention, RemoveAttention
from leanformer.layers.branch import RemovedForm
from leanformer.training import Linear, Scheduled, TrainConfig

log = logging.getLogger(__name__)

FADING = Linear(start=1.0, end=0.0, until=299 / 400)
"""The share of the attention over a training."""


def diluted(config: TrainConfig, blocks: tuple[int, ...], form: RemovedForm = "identity") -> TrainConfig:
    """The run `config` with the attention of `blocks` fading out and removed at the end.

    It should start from trained weights (`config.model.weights`).
    """
    model = replace(config.model, edits=(*config.model.edits, DiluteAttention(blocks=blocks, form=form)))
    return with_removal(replace(config, model=model))


def with_removal(config: TrainConfig) -> TrainConfig:
    """A run whose model is diluted, with what it lacks: a schedule in which attention fades out step by step, and its
    removal before the other finishing steps. Any other run as it is."""
    dilutions = [edit for edit in config.model.edits if isinstance(edit, DiluteAttention)]
    removed = {block for step in config.finish if isinstance(step, RemoveAttention) for block in step.blocks}
    left = tuple(
        RemoveAttention(blocks=edit.blocks, form=edit.form) for edit in dilutions if not removed & set(edit.blocks)
    )
    driven = not dilutions or any(scheduled.what == "attention_share" for scheduled in config.schedules)
    if not driven:
        log.info("attention fades out in the first 3/4 of training and is removed at its end")
    fading = () if driven else (Scheduled(what="attention_share", schedule=FADING),)
    return replace(config, schedules=(*config.schedules, *fading), finish=(*left, *config.finish))
