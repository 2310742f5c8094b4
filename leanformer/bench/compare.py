"""A comparison that may be believed: outputs first, time second, and no speed-up where outputs differ that should
not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leanformer.bench.latency import (
    Runner,
    Timing,
    check_settings,
    compare_times,
    fixed_batch,
    time_in_turns,
    torch_threads,
)
from leanformer.bench.steadiness import disturbances
from leanformer.errors import ConfigError
from leanformer.ops import full_float32


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well a runner reproduces the outputs of another on the same images."""

    name: str
    reference: str
    max_diff: float
    """Largest absolute difference."""
    relative_diff: float
    """`max_diff` over the largest absolute output of the reference."""
    tolerance: float
    """Largest `relative_diff` that counts as equal."""

    @property
    def passed(self) -> bool:
        """Whether the outputs are equal within the tolerance; NaN never is."""
        return self.relative_diff <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Timings in the order of the runners, and the agreements that allow their speed-ups."""

    timings: tuple[Timing, ...]
    agreements: tuple[Agreement, ...]
    disturbances: tuple[str, ...] = ()
    """What made the machine unsteady, in sentences."""


def compare(
    runners: Sequence[Runner],
    *,
    batch_size: int,
    image_size: int | tuple[int, int],
    warmup: int = 5,
    repeats: int = 50,
    threads: int | None = None,
    min_seconds: float = 0.0,
    tolerance: float = 1e-4,
) -> Comparison:
    """Compare outputs of all runners that name another as `same_as`, then time everything in turns.

    A runner that does not reproduce its reference keeps its time but gets no speed-up, and its note says why.
    """
    check_settings(runners, batch_size=batch_size, repeats=repeats, threads=threads)
    with torch_threads(threads):
        agreements = check_outputs(runners, fixed_batch(batch_size, image_size), tolerance=tolerance)
    rounds = {"warmup": warmup, "repeats": repeats, "min_seconds": min_seconds}
    seconds = time_in_turns(runners, batch_size=batch_size, image_size=image_size, threads=threads, **rounds)
    timings = compare_times([runner.name for runner in runners], seconds, batch_size)
    return Comparison(
        timings=tuple(gate(timings, agreements)),
        agreements=tuple(agreements),
        disturbances=tuple(disturbances(runners[0].name, seconds[0])),
    )


def check_outputs(runners: Sequence[Runner], images: Tensor, *, tolerance: float = 1e-4) -> list[Agreement]:
    """The agreement of every runner that has a `same_as` with that runner, which comes before it."""
    known: dict[str, Runner] = {}
    agreements = []
    for runner in runners:
        known[runner.name] = runner
        if runner.same_as is None:
            continue
        if runner.same_as == runner.name or runner.same_as not in known:
            raise ConfigError(f"{runner.name!r} is compared with {runner.same_as!r}, which is not measured before it")
        found, expected = _outputs(runner, images), _outputs(known[runner.same_as], images)
        agreements.append(_agreement(runner, found, expected, tolerance))
    return agreements


def gate(timings: Sequence[Timing], agreements: Sequence[Agreement]) -> list[Timing]:
    """The timings, without the speed-up of any that failed its agreement, or whose reference did."""
    failed: dict[str, Agreement] = {}
    for agreement in agreements:
        if not agreement.passed:
            failed[agreement.name] = agreement
        elif agreement.reference in failed:
            failed[agreement.name] = failed[agreement.reference]
    return [
        replace(timing, speedup=None, speedup_interval=None, note=_reason(failed[timing.name]))
        if timing.name in failed
        else timing
        for timing in timings
    ]


def _reason(agreement: Agreement) -> str:
    return (
        f"no speed-up: {agreement.name} differs from {agreement.reference} by {agreement.relative_diff:.1e} of its "
        f"scale (allowed {agreement.tolerance:.0e})"
    )


def _outputs(runner: Runner, images: Tensor) -> Tensor:
    with torch.inference_mode(), full_float32():
        return runner.call(images.to(device=runner.device, dtype=runner.dtype)).float().cpu()


def _agreement(runner: Runner, found: Tensor, expected: Tensor, tolerance: float) -> Agreement:
    assert runner.same_as is not None
    max_diff = scale = float("inf")  # outputs of different shapes have no difference to state
    if found.shape == expected.shape:
        max_diff, scale = (found - expected).abs().max().item(), expected.abs().max().item()
    relative = max_diff / scale if 0 < scale < float("inf") else max_diff
    return Agreement(
        name=runner.name, reference=runner.same_as, max_diff=max_diff, relative_diff=relative, tolerance=tolerance
    )
