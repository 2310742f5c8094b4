"""Where in a model its time goes, by the parts that its multiply-accumulates are counted in and some that have none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from leanformer.bench.latency import torch_threads
from leanformer.bench.parts import PARTS, part_of
from leanformer.edits.norm_sites import find_norms
from leanformer.layers.block import Block, BlockSequence, Stage
from leanformer.layers.branch import Branch, DropPath, LayerScale, Rescale
from leanformer.layers.merging import MergingSequence
from leanformer.layers.region import PaddedRegion
from leanformer.models import ImageClassifier

NORMS, WINDOWS, REST = "norms", "windows", "the rest"
TIMED_PARTS = (*PARTS, NORMS, WINDOWS, REST)
"""Windows are the splitting of the map and the joining; the rest is what no part does itself: additions of branches,
layer scales, positions on the map."""

_AROUND = (Block, BlockSequence, Stage, Branch, DropPath, LayerScale, Rescale)


class Stopwatch(Protocol):
    """Marks moments that have a distance once the device is done."""

    def mark(self) -> Any:
        """Now."""
        ...

    def settle(self) -> None:
        """Wait until the device has passed all marks."""
        ...

    def seconds(self, start: Any, end: Any) -> float:
        """From one mark to another."""
        ...


class Clock:
    """The stopwatch of a CPU."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.mark = clock

    def settle(self) -> None:
        """Nothing is pending."""

    def seconds(self, start: float, end: float) -> float:
        """From one reading to another."""
        return end - start


class Events:
    """The stopwatch of a GPU: events in its stream, so that nothing waits in the middle of a model."""

    def mark(self) -> torch.cuda.Event:
        """An event behind all that was asked for until now."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def settle(self) -> None:
        """Wait for the stream."""
        torch.cuda.synchronize()

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Between two events."""
        return start.elapsed_time(end) / 1000.0


@dataclass(frozen=True, kw_only=True)
class PartTimes:
    """How long the parts of a model take; medians over rounds."""

    ms: dict[str, float]
    """By part, those without any left out."""
    shares: dict[str, float]
    """Of their sum."""
    whole_ms: float
    """A whole pass while its parts are timed."""
    measuring: float
    """How many times as long a pass takes because its parts are timed: far above 1, shares of small parts are too
    large."""


def time_parts(
    model: ImageClassifier, images: Tensor, *, repeats: int, threads: int | None = None, watch: Stopwatch | None = None
) -> PartTimes:
    """Time the parts of `model` on the (B, 3, H, W) `images`, in rounds of a plain pass and one that is watched.

    Args:
        watch: None for the one of the images' device.
    """
    watch = watch or (Events() if images.device.type == "cuda" else Clock())
    recorder = _Recorder(watch)
    plain: list[float] = []
    rounds: list[dict[str, float]] = []
    model.eval()
    with torch_threads(threads), torch.inference_mode():
        model(images)
        for _ in range(repeats):
            plain.append(_pass(model, images, watch))
            with recorder.watching(model):
                whole = _pass(model, images, watch)
            rounds.append(recorder.take(whole))
    return _summary(rounds, plain)


def timed_part(modules: dict[str, nn.Module], norms: set[nn.Module], name: str) -> str | None:
    """The part that a module's own time belongs to; None for what only holds others."""
    module = modules[name]
    if module in norms:
        return NORMS
    if isinstance(module, PaddedRegion):
        return WINDOWS
    if isinstance(module, MergingSequence):
        return part_of(modules, name)
    if isinstance(module, _AROUND) or name in ("", "backbone"):
        return None
    part = part_of(modules, name)
    return None if part == "head" and not name.startswith("head") else part


def _pass(model: nn.Module, images: Tensor, watch: Stopwatch) -> float:
    start = watch.mark()
    model(images)
    end = watch.mark()
    watch.settle()
    return watch.seconds(start, end)


@dataclass
class _Span:
    """One call of a module."""

    part: str
    start: Any
    end: Any = None
    inner: list[_Span] = field(default_factory=list)


class _Recorder:
    """Notes when modules begin and end; the time of one is that without the modules it calls."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.open: list[_Span] = []
        self.done: list[_Span] = []

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Hooks on all modules of a part other than that of the module around them."""
        handles = []
        for module, part in _watched(model):
            handles.append(module.register_forward_pre_hook(self._entering(part)))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self, whole: float) -> dict[str, float]:
        """Seconds of each part of the pass that took `whole` seconds; then forget it."""
        seconds: dict[str, float] = dict.fromkeys(TIMED_PARTS, 0.0)
        for span in self.done:
            inner = sum(self.watch.seconds(each.start, each.end) for each in span.inner)
            seconds[span.part] += self.watch.seconds(span.start, span.end) - inner
        seconds[REST] = whole - sum(seconds.values())
        self.done = []
        return seconds

    def _entering(self, part: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, args: Any) -> None:
            self.open.append(_Span(part, self.watch.mark()))

        return enter

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        span = self.open.pop()
        span.end = self.watch.mark()
        if self.open:
            self.open[-1].inner.append(span)
        self.done.append(span)


def _watched(model: nn.Module) -> list[tuple[nn.Module, str]]:
    modules = dict(model.named_modules())
    norms = {found.norm for found in find_norms(model)}
    parts: dict[str, str | None] = {}
    found = []
    for name, module in modules.items():  # what is around comes first
        around = parts.get(name.rpartition(".")[0])
        part = timed_part(modules, norms, name)
        parts[name] = part or around
        if part is not None and part != around:
            found.append((module, part))
    return found


def _summary(rounds: Sequence[dict[str, float]], plain: Sequence[float]) -> PartTimes:
    medians = {part: 1000.0 * statistics.median(each[part] for each in rounds) for part in TIMED_PARTS}
    ms = {part: median for part, median in medians.items() if median > 0}
    whole = 1000.0 * statistics.median(sum(each.values()) for each in rounds)
    return PartTimes(
        ms=ms,
        shares={part: median / sum(ms.values()) for part, median in ms.items()},
        whole_ms=whole,
        measuring=whole / (1000.0 * statistics.median(plain)),
    )
