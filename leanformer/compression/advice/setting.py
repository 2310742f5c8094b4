"""All that is measured of a model on images of one size."""

from __future__ import annotations

from dataclasses import replace

import torch

from leanformer import bench, edits
from leanformer.bench.compare import check_outputs
from leanformer.bench.latency import fixed_batch
from leanformer.bench.part_times import NORMS, REST, WINDOWS
from leanformer.compression.advice.changes import Candidate, candidates, other_attentions
from leanformer.compression.advice.figures import Change, PartShare, Setting, median_ms
from leanformer.compression.advice.turns import Timer, Turns
from leanformer.compression.figures import EXACT
from leanformer.models import ImageClassifier

BUDGET = 40.0
"""Seconds for the edits, and for other attentions, each."""
PARTS_BUDGET = 15.0
MOST_CHECKED = 384
"""Pixels of a side, up to which edits that keep the outputs are held to it."""


def measure_setting(model: ImageClassifier, batch_size: int, timer: Timer) -> Setting:
    """Measure the model as it is, its parts, its edits and other attentions, on images of its size."""
    size = model.config.image_grid
    first = bench.eager_runner("as it is", model)
    changes: list[Change] = []
    refused = []
    original: Turns | None = None
    for find in (candidates, other_attentions):
        found, reasons = find(model)
        refused += reasons
        must = 1 + sum(each.edit is None for each in found)
        runners = [first, *(bench.eager_runner(each.name, each.model) for each in found)]
        turns = timer.turns(runners, batch_size=batch_size, image_size=size, budget=BUDGET, must=must)
        original = original or turns[0]
        changes += [_change(each, own, turns[0], model) for each, own in zip(found, turns[1:], strict=True)]
    assert original is not None
    timing = original.timing()
    parts, measuring = _parts(model, batch_size, timing.median_ms / 1000.0, timer)
    return Setting(
        image_size=size,
        batch_size=batch_size,
        median_ms=timing.median_ms,
        p10_ms=timing.p10_ms,
        p90_ms=timing.p90_ms,
        rounds=timing.repeats,
        measuring=measuring,
        parts=parts,
        changes=tuple(changes),
        refused=tuple(refused),
        random_weights=not model.origin,
    )


def _change(candidate: Candidate, own: Turns, original: Turns, model: ImageClassifier) -> Change:
    return Change(
        name=candidate.name,
        needs=candidate.needs,
        attention=candidate.attention,
        edit=candidate.edit,
        median_ms=median_ms(own.seconds),
        base_ms=median_ms(original.seconds),
        rounds=len(own.seconds),
        gain=own.gain_over(original),
        difference=_difference(candidate, model),
    )


def _difference(candidate: Candidate, model: ImageClassifier) -> float | None:
    size = model.config.image_grid
    if not candidate.exact or max(size) > MOST_CHECKED:
        return None
    before, after = bench.eager_runner("before", model), bench.eager_runner("after", candidate.model, same_as="before")
    (agreement,) = check_outputs([before, after], fixed_batch(1, size), tolerance=EXACT)
    return agreement.relative_diff


def _parts(
    model: ImageClassifier, batch_size: int, seconds: float, timer: Timer
) -> tuple[tuple[PartShare, ...], float]:
    """Shares of the parts, in as many rounds as the budget has room for, and what measuring them costs."""
    rounds = max(3, min(timer.repeats, int(PARTS_BUDGET / (2 * seconds))))
    images = fixed_batch(batch_size, model.config.image_grid).to(next(model.parameters()).device)
    times = timer.parts(model, images, rounds)
    macs = bench.count_parts(model, model.config.image_grid)
    total = max(sum(macs.values()), 1)
    shares = tuple(
        PartShare(
            name=name,
            ms=ms,
            share=times.shares[name],
            macs_share=None if name in (NORMS, WINDOWS, REST) else macs[name] / total,
        )
        for name, ms in times.ms.items()
    )
    return shares, times.measuring


def rebuilt(model: ImageClassifier, image_size: int) -> ImageClassifier:
    """The same structure for images of another size, with random weights.

    Raises:
        ConfigError, EditError: if it cannot be built for them.
    """
    other = ImageClassifier(replace(model.config, image_size=image_size), model.name)
    edits.replay(other, model.edits)
    return other.to(next(model.parameters(), torch.empty(0)).device).eval()
