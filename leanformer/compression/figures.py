"""What states of a model on its way cost and how they do, measured so that each can be compared with the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from leanformer import bench
from leanformer.bench.compare import check_outputs
from leanformer.bench.latency import fixed_batch
from leanformer.bench.steadiness import BUSY
from leanformer.bench.table import short_number
from leanformer.config import to_dict
from leanformer.data import LabeledImages
from leanformer.models import ImageClassifier
from leanformer.tasks import evaluate_images

EXACT = 1e-4
"""Of the outputs' scale: what an exact edit may change them by."""
FEWEST_ROUNDS = 6
"""Rounds whose extremes hold the median with more than 95 %."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much faster a state is than another, both measured in the same rounds."""

    speedup: float
    low: float
    high: float
    """Ends of the 95 % interval."""

    @property
    def verdict(self) -> str:
        """Whether it paid: a difference within the noise is none."""
        if self.low > 1.0:
            return "paid"
        return "slower" if self.high < 1.0 else "no difference measured"

    def __str__(self) -> str:
        return f"{self.speedup:.2f}x ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one batch, and how that compares."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    over_original: Gain
    over_previous: Gain
    """Over the state that it was made from."""

    @property
    def busy(self) -> str:
        """A remark where the times spread so much that something else was running; empty where they do not."""
        spread = self.p90_ms / self.p10_ms
        return f"the machine was busy, times spread {spread:.1f}-fold" if spread > BUSY else ""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Latency:
        """What `dataclasses.asdict` gave."""
        gains = {name: Gain(**data[name]) for name in ("over_original", "over_previous")}
        return cls(median_ms=data["median_ms"], p10_ms=data["p10_ms"], p90_ms=data["p90_ms"], **gains)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is known of one state of a model."""

    name: str
    edits: tuple[Any, ...]
    """In their JSON form."""
    parameters: int
    macs: int
    """On one image."""
    latency: Latency
    score: float | None = None
    """0 to 1; None where there is no data."""
    score_name: str = "top-1"
    """What the score is: of images of several classes the mAP."""
    num_images: int | None = None
    """That the score was measured on."""
    note: str = ""

    def line(self, original: Figures | None = None) -> str:
        """One line for people: size, accuracy, latency, and whether it paid."""
        parts = [f"{short_number(self.parameters)} parameters", f"{short_number(self.macs)} MACs"]
        if self.score is not None:
            lost = (
                "" if original is None or original.score is None else f" ({100 * (self.score - original.score):+.2f})"
            )
            parts.append(f"{self.score_name} {100 * self.score:.2f} %{lost}")
        at = self.latency
        parts.append(f"{at.median_ms:#.3g} ms ({at.p10_ms:#.3g}-{at.p90_ms:#.3g})")
        if original is not None:
            parts.append(f"{at.over_original} of the original's speed")
            gain = at.over_previous
            parts.append(f"{gain.verdict}" if gain == at.over_original else f"{gain.verdict}: this step {gain}")
        parts += [at.busy] * bool(at.busy)
        return f"{self.name}: " + ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Figures:
        """What `to_dict` gave."""
        return cls(**{**data, "edits": tuple(data["edits"]), "latency": Latency.from_dict(data["latency"])})


class Meter:
    """Measures states of one model on one device, with the same images and settings.

    Args:
        original: what everything is compared with; put into eval mode.
        images: that accuracy is measured on; None measures none.
        title: what messages call the images.
        batch_size: images in each timed forward pass.
        threads: torch's; None leaves them.
    """

    def __init__(
        self,
        original: ImageClassifier,
        images: LabeledImages | None,
        title: str,
        *,
        batch_size: int = 1,
        repeats: int = 30,
        threads: int | None = None,
        workers: int = 0,
    ) -> None:
        self.original = original.eval()
        self.images, self.title = images, title
        self.batch_size, self.repeats, self.threads, self.workers = batch_size, repeats, threads, workers
        self.image_size = original.config.image_grid

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the original's weights and structure."""
        digest = hashlib.sha256(json.dumps(to_dict(self.original.config), sort_keys=True).encode())
        for name, value in self.original.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def measure(
        self,
        name: str,
        model: ImageClassifier,
        edits: Sequence[Any] = (),
        *,
        previous: ImageClassifier | None = None,
        images: LabeledImages | None = None,
        scored: bool = True,
    ) -> Figures:
        """The figures of a state.

        Args:
            edits: that made it, in their JSON form.
            previous: what it was made from; None for the original.
            images: that accuracy is measured on, in place of the meter's.
            scored: whether it is measured.
        """
        images = self.images if images is None else images
        cost = bench.count_cost(model, self.image_size)
        metrics = None
        if images is not None and scored:
            metrics = evaluate_images(model, images, self.title, 64, self.workers)
        return Figures(
            name=name,
            edits=tuple(edits),
            parameters=cost.parameters,
            macs=cost.macs,
            latency=self.latency(model, previous),
            score=None if metrics is None else metrics.score,
            score_name="top-1" if metrics is None else metrics.score_name,
            num_images=None if metrics is None else metrics.count,
        )

    def latency(
        self, model: ImageClassifier, previous: ImageClassifier | None = None, *, repeats: int | None = None
    ) -> Latency:
        """The latency of `model`, the original and the state before it, timed in turns of `repeats` rounds."""
        states = {"original": self.original, "previous": previous or self.original, "model": model}
        distinct = list(dict.fromkeys(states.values()))
        rounds = bench.time_in_turns(
            [bench.eager_runner(str(index), state) for index, state in enumerate(distinct)],
            batch_size=self.batch_size,
            image_size=self.image_size,
            repeats=repeats or self.repeats,
            threads=self.threads,
        )
        seconds = {name: rounds[distinct.index(state)] for name, state in states.items()}
        own = bench.summarize("model", seconds["model"], batch_size=self.batch_size)
        return Latency(
            median_ms=own.median_ms,
            p10_ms=own.p10_ms,
            p90_ms=own.p90_ms,
            over_original=_gain(own, seconds["model"], seconds["original"]),
            over_previous=_gain(own, seconds["model"], seconds["previous"]),
        )

    def difference(self, model: ImageClassifier, before: ImageClassifier) -> float:
        """Largest difference of any output from `before`, as a share of the outputs' scale, on a few fixed images."""
        first, second = bench.eager_runner("before", before), bench.eager_runner("after", model, same_as="before")
        (agreement,) = check_outputs([first, second], fixed_batch(4, self.image_size), tolerance=EXACT)
        return agreement.relative_diff


def _gain(timing: bench.Timing, seconds: Sequence[float], baseline: Sequence[float]) -> Gain:
    compared = bench.with_speedup(timing, seconds, baseline)
    assert compared.speedup is not None and compared.speedup_interval is not None
    low, high = compared.speedup_interval
    return Gain(speedup=compared.speedup, low=low, high=high)
