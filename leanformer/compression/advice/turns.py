"""Times of several things in turns, within a budget of seconds: as many rounds as it has room for, and those that are
slow left out before they eat it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leanformer import bench
from leanformer.bench.latency import CPU, fixed_batch, timed_call, torch_threads
from leanformer.compression.figures import FEWEST_ROUNDS, Gain
from leanformer.models import ImageClassifier

SLOW = 0.3
"""Seconds of a call that need no call before it to find its caches warm."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What was measured of one runner."""

    name: str
    seconds: tuple[float, ...]
    """Of each round; one alone if the budget had no room for more."""

    @property
    def measured(self) -> bool:
        """Whether there are rounds to compare."""
        return len(self.seconds) >= FEWEST_ROUNDS

    def gain_over(self, other: Turns) -> Gain | None:
        """How much faster it is than another of the same rounds; None if one was not measured."""
        if not (self.measured and other.measured):
            return None
        timing = bench.with_speedup(self.timing(), self.seconds, other.seconds)
        assert timing.speedup is not None and timing.speedup_interval is not None
        low, high = timing.speedup_interval
        return Gain(speedup=timing.speedup, low=low, high=high)

    def timing(self) -> bench.Timing:
        """Median and spread."""
        return bench.summarize(self.name, self.seconds, batch_size=1)


@dataclass(frozen=True, kw_only=True)
class Timer:
    """How everything is timed."""

    repeats: int = 15
    """Rounds, at most."""
    threads: int | None = None
    """Of torch; None leaves them."""
    device: torch.device = CPU
    clock: Callable[[], float] = time.perf_counter

    def turns(
        self,
        runners: Sequence[bench.Runner],
        *,
        batch_size: int,
        image_size: int | tuple[int, int],
        budget: float,
        must: int = 1,
    ) -> list[Turns]:
        """Time the runners in turns, in about `budget` seconds.

        All are run once. The first `must` and the fastest others are then timed for as long as the budget lasts, in at
        least `FEWEST_ROUNDS` rounds; those that it has no room for keep the time of one call.
        """
        images = fixed_batch(batch_size, image_size)
        once = self._probe(runners, images)
        settle = max(once) < SLOW
        chosen, rounds = choose(once, repeats=self.repeats, budget=budget / (2 if settle else 1), must=must)
        timed = bench.time_in_turns(
            [runners[index] for index in chosen],
            batch_size=batch_size,
            image_size=image_size,
            warmup=1 if settle else 0,
            repeats=rounds,
            threads=self.threads,
            clock=self.clock,
            settle=settle,
        )
        found = dict(zip(chosen, timed, strict=True))
        return [
            Turns(name=runner.name, seconds=tuple(found.get(index, [seconds])))
            for index, (runner, seconds) in enumerate(zip(runners, once, strict=True))
        ]

    def parts(self, model: ImageClassifier, images: Tensor, rounds: int) -> bench.PartTimes:
        """How long the parts of a model take."""
        return bench.time_parts(model, images, repeats=rounds, threads=self.threads)

    def _probe(self, runners: Sequence[bench.Runner], images: Tensor) -> list[float]:
        """Seconds of one call of each: the first, or for fast ones the second."""
        found = []
        with torch_threads(self.threads), torch.inference_mode():
            for runner in runners:
                batch = images.to(device=runner.device, dtype=runner.dtype)
                seconds = timed_call(runner, batch, self.clock)
                found.append(seconds if seconds > SLOW else timed_call(runner, batch, self.clock))
        return found


def choose(once: Sequence[float], *, repeats: int, budget: float, must: int = 1) -> tuple[list[int], int]:
    """Which runners a budget has room for, in their order, and in how many rounds: the first `must`, the fastest
    other, and as many more as can be measured in the fewest rounds.

    Args:
        once: seconds of one call of each.
    """
    fastest = sorted(range(must, len(once)), key=lambda index: once[index])
    chosen = [*range(must), *fastest[:1]]
    for index in fastest[1:]:
        if FEWEST_ROUNDS * sum(once[each] for each in (*chosen, index)) > budget:
            break
        chosen.append(index)
    rounds = int(budget / max(sum(once[each] for each in chosen), 1e-9))
    return sorted(chosen), max(FEWEST_ROUNDS, min(repeats, rounds))
