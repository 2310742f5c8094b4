"""What a plan gives: an edit, and the record of how it was chosen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from leanformer.config import to_dict
from leanformer.edits.edit import Edit
from leanformer.edits.plans.network import Network
from leanformer.edits.plans.scores import Figures, Score
from leanformer.edits.plans.search import Known, Progress, Search, Trial, Trials
from leanformer.errors import ConfigError, DataError

SHOWN = 12
"""Trials of a round that are shown to people; programs get all."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An edit that was chosen by measuring, and what was measured. The model is as it was."""

    edit: Edit
    asked: dict[str, Any]
    """What was asked for, as JSON."""
    changes: tuple[str, ...]
    """The names of what was chosen."""
    score: float | None = None
    """Of the choice; less is better. None if nothing was measured."""
    unit: str = ""
    trials: tuple[Trial, ...] = ()
    full: Figures = field(default_factory=dict)
    """The figures of the network as it is."""
    num_images: int | None = None
    """That it was chosen with."""
    forward_passes: float = 0.0
    """Work of the search in passes of the whole network over all images."""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The whole record as JSON."""
        trials = [
            {"round": t.round, "changes": list(t.changes), "score": t.score, "figures": dict(t.figures)}
            for t in self.trials
        ]
        return {
            "edit": to_dict(self.edit),
            "asked": self.asked,
            "changes": list(self.changes),
            "score": self.score,
            "unit": self.unit,
            "full": dict(self.full),
            "trials": trials,
            "num_images": self.num_images,
            "forward_passes": self.forward_passes,
            "seconds": self.seconds,
        }

    def lines(self) -> list[str]:
        """The record for people: the choice, the trials of each round from the best on, and what it took."""
        asked = ", ".join(f"{name} {value}" for name, value in self.asked.items() if value is not None)
        lines = [f"{self.edit.kind}: {', '.join(self.changes)} ({asked})"]
        if self.score is None:
            return [*lines, "nothing was measured"]
        full = ", ".join(f"{name} {value:.4g}" for name, value in self.full.items())
        lines.append(f"score {self.score:+.4g} {self.unit}{full and f'; the whole network has {full}'}")
        for number, trials in groupby(self.trials, key=lambda trial: trial.round):
            ranked = sorted(trials, key=lambda trial: trial.rank)
            more = f" and {len(ranked) - SHOWN} more" if len(ranked) > SHOWN else ""
            each = "; ".join(f"{'+'.join(t.changes)} {t.score:+.4g}" for t in ranked[:SHOWN])
            lines.append(f"round {number}: {each}{more}")
        images = "" if self.num_images is None else f" on {self.num_images} images"
        passes = f", {self.forward_passes:.1f} forward passes" if self.forward_passes else ""
        return [*lines, f"{len(self.trials)} variants{images}{passes}, {self.seconds:.1f} s"]


def run_search(
    network: Network,
    score: Score | None,
    search: Search,
    count: int,
    *,
    what: str,
    make: Callable[[tuple[str, ...]], Edit],
    asked: dict[str, Any],
    known: Known | None,
    progress: Callable[[Progress], None] | None,
) -> Plan:
    """Choose `count` of a network's changes.

    Args:
        what: what the changes are, which tells their figures from those of others in `known`.
        make: the edit that makes the chosen ones for good.

    Raises:
        DataError: if the search needs a score and there is none.
    """
    if score is None and search.needs_data:
        raise DataError(
            f"a plan cannot choose without data: the search {search.kind!r} needs a score, such as "
            "TransferEntropy(batches); RandomChoice() and FirstOnes() need none"
        )
    search.check(len(network.changes), count)
    asked = {"search": search.kind, **search.__dict__, "score": score and score.name, **asked}
    started = time.perf_counter()
    if score is None:
        chosen = search.choose(network, None, count)
        return Plan(edit=make(chosen), asked=asked, changes=chosen, seconds=time.perf_counter() - started)
    trials = Trials(network, score, {} if known is None else known, what, progress)
    with network.at_rest():
        network.check(score.first_images())
        network.work = 0
        chosen = search.choose(network, trials, count)
    (best,) = {trial.changes: trial for trial in trials.made if trial.changes == chosen}.values()
    num_images = score.num_images
    return Plan(
        edit=make(chosen),
        asked=asked,
        changes=chosen,
        score=best.score,
        unit=score.unit,
        trials=tuple(trials.made),
        full=trials.full,
        num_images=num_images,
        forward_passes=network.work / (network.num_blocks * num_images) if num_images else 0.0,
        seconds=time.perf_counter() - started,
    )


def count_of(ratio: float | None, number: int | None, available: int, what: str, most: int | None = None) -> int:
    """How many of `available` things to take, of which either the share or the number is given.

    Args:
        most: that can be taken together; None for all.

    Raises:
        ConfigError: unless one of them is given, in its range, and comes to at least one.
    """
    most = available if most is None else most
    if (ratio is None) == (number is None):
        raise ConfigError(f"give either ratio or the number of {what}, got ratio {ratio} and number {number}")
    if ratio is not None and not 0.0 < ratio <= 1.0:
        raise ConfigError(f"ratio must be above 0 and at most 1, got {ratio}")
    count = round(ratio * available) if ratio is not None else number
    if ratio is not None and not count:
        raise ConfigError(f"ratio {ratio} of {available} {what} is none; take {1 / available:.2g} or more")
    if count is None or not 1 <= count <= most:
        raise ConfigError(f"the model has {available} {what}, of which 1 to {most} can be taken, got {count}")
    return count
