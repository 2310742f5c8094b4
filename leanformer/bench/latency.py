"""Latency of several models in one process, in turns: what slows the machine down slows all of them alike.

A figure taken in a run of its own cannot be compared with another: clocks, caches and neighbours differ by more than
most speed-ups. Here every round times each runner once, in alternating order, and the speed-up is the median of the
rounds' ratios, with an interval that says whether it is more than noise.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from leanformer.errors import ConfigError

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Something that takes a batch of images: a model in eager mode, a compiled one, an exported file."""

    name: str
    call: Callable[[Tensor], Tensor]
    """(B, 3, H, W) images to (B, K) outputs."""
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    threads: int | None = None
    """Threads it was built with, for one that does not follow torch's setting."""
    same_as: str | None = None
    """The runner whose outputs it has to reproduce; None where the two are different models."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of one runner, and how they compare with those of the first."""

    name: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    repeats: int
    images_per_s: float
    """Images in the batch over the median time."""
    speedup: float | None = None
    """Time of the first runner over this one's, median of the rounds; None where it may not be claimed."""
    speedup_interval: tuple[float, float] | None = None
    """95 % confidence interval of that median; 1 inside it means that no difference was measured."""
    note: str = ""
    """Why there is no speed-up."""


def eager_runner(name: str, model: nn.Module, *, same_as: str | None = None) -> Runner:
    """A runner of a model as it is, on the device and in the type of its parameters; the model is put into eval
    mode."""
    model.eval()
    first = next(model.parameters(), torch.empty(0))
    return Runner(name=name, call=model, device=first.device, dtype=first.dtype, same_as=same_as)


def fixed_batch(batch_size: int, image_size: int | tuple[int, int]) -> Tensor:
    """The same (B, 3, H, W) images at every call, of unit variance."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return torch.randn(batch_size, 3, height, width, generator=torch.Generator().manual_seed(0))


def measure_interleaved(
    runners: Sequence[Runner],
    *,
    batch_size: int,
    image_size: int | tuple[int, int],
    warmup: int = 5,
    repeats: int = 50,
    threads: int | None = None,
    min_seconds: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time the runners in turns, as `time_in_turns` does, and compare each with the first."""
    seconds = time_in_turns(
        runners,
        batch_size=batch_size,
        image_size=image_size,
        warmup=warmup,
        repeats=repeats,
        threads=threads,
        min_seconds=min_seconds,
        clock=clock,
    )
    return compare_times([runner.name for runner in runners], seconds, batch_size)


def compare_times(names: Sequence[str], seconds: Sequence[Sequence[float]], batch_size: int) -> list[Timing]:
    """Each runner's median and spread, and its speed-up over the first; `seconds` are of the same rounds."""
    timings = [summarize(name, times, batch_size=batch_size) for name, times in zip(names, seconds, strict=True)]
    return [with_speedup(timing, times, seconds[0]) for timing, times in zip(timings, seconds, strict=True)]


def time_in_turns(
    runners: Sequence[Runner],
    *,
    batch_size: int,
    image_size: int | tuple[int, int],
    warmup: int = 5,
    repeats: int = 50,
    threads: int | None = None,
    min_seconds: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    settle: bool = True,
) -> list[list[float]]:
    """Seconds of each runner in each round: `warmup` rounds unmeasured, then `repeats` and at least `min_seconds`.

    With `settle` each timed call follows an untimed one of the same runner, so that it finds its own caches and awake
    threads; calls of a second and more do not notice. `threads` are torch's for the time of the measurement.
    """
    check_settings(runners, batch_size=batch_size, repeats=repeats, threads=threads)
    images = fixed_batch(batch_size, image_size)
    inputs = [images.to(device=runner.device, dtype=runner.dtype) for runner in runners]
    seconds: list[list[float]] = [[] for _ in runners]
    with torch_threads(threads), torch.inference_mode():
        for _ in range(warmup):
            for runner, batch in zip(runners, inputs, strict=True):
                runner.call(batch)
        started = clock()
        while len(seconds[0]) < repeats or clock() - started < min_seconds:
            order = range(len(runners)) if len(seconds[0]) % 2 == 0 else range(len(runners))[::-1]
            for index in order:
                if settle:
                    runners[index].call(inputs[index])
                seconds[index].append(timed_call(runners[index], inputs[index], clock))
    return seconds


def summarize(name: str, seconds: Sequence[float], *, batch_size: int) -> Timing:
    """Median and spread of measured times, without a comparison."""
    times = sorted(1000.0 * value for value in seconds)
    median = statistics.median(times)
    return Timing(
        name=name,
        median_ms=median,
        p10_ms=quantile(times, 0.1),
        p90_ms=quantile(times, 0.9),
        p99_ms=quantile(times, 0.99),
        min_ms=times[0],
        repeats=len(times),
        images_per_s=1000.0 * batch_size / median,
    )


def with_speedup(timing: Timing, seconds: Sequence[float], baseline: Sequence[float]) -> Timing:
    """The timing with its speed-up over `baseline`, whose entries were measured in the same rounds."""
    ratios = sorted(base / own for base, own in zip(baseline, seconds, strict=True))
    return replace(timing, speedup=statistics.median(ratios), speedup_interval=median_interval(ratios))


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the median of sorted values, from order statistics: no distribution is assumed."""
    count = len(ordered)
    half = 0.98 * math.sqrt(count)  # 1.96 standard deviations of a binomial with p = 1/2
    low = max(0, math.floor(count / 2 - half))
    high = min(count - 1, math.ceil(count / 2 + half) - 1)
    return ordered[low], ordered[max(high, low)]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie, linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Set torch's number of threads for a while; None leaves it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timed_call(runner: Runner, images: Tensor, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call; on a GPU those between two events."""
    if runner.device.type != "cuda":
        started = clock()
        runner.call(images)
        return clock() - started
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(runner.device)
    start.record()
    runner.call(images)
    end.record()
    torch.cuda.synchronize(runner.device)
    return start.elapsed_time(end) / 1000.0


def check_settings(runners: Sequence[Runner], *, batch_size: int, repeats: int, threads: int | None) -> None:
    """Refuse what cannot be measured.

    Raises:
        ConfigError: for no runners, two of one name, numbers below 1, or a runner opened with other threads.
    """
    if not runners:
        raise ConfigError("there is nothing to measure: give at least one model")
    if batch_size < 1 or repeats < 1 or (threads is not None and threads < 1):
        raise ConfigError(f"batch_size, repeats and threads must be at least 1, got {batch_size}, {repeats}, {threads}")
    names = [runner.name for runner in runners]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two runners are named {twice[0]!r}; every row of the table needs its own name")
    used = threads or torch.get_num_threads()
    for runner in runners:
        if runner.threads is not None and runner.threads != used:
            raise ConfigError(f"{runner.name!r} was opened with {runner.threads} threads, but {used} are measured")
