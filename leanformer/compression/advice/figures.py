"""What advice consists of: figures that can be written as JSON and read again."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from leanformer.bench.steadiness import BUSY
from leanformer.compression.advice.crossing import Crossing
from leanformer.compression.figures import Gain

Needs = Literal["nothing", "images", "training"]
"""What has to be there before a change can be used: nothing, for outputs stay; images that choose or check; or
training."""


@dataclass(frozen=True, kw_only=True)
class PartShare:
    """One part of a model."""

    name: str
    ms: float
    share: float
    """Of the time."""
    macs_share: float | None
    """Of the multiply-accumulates; None for a part that has none by nature."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of the model, measured."""

    name: str
    needs: Needs
    attention: bool
    """Whether it is another attention, of which only one can be had."""
    edit: str | None
    """What `--edit` takes; None for another model, whose registered name is `name`."""
    median_ms: float
    base_ms: float
    """Median of the model as it is, in turns with which the change was timed."""
    rounds: int
    """That it was timed in; 1 if it was too slow for more."""
    gain: Gain | None
    """Over the model as it is; None for one round."""
    difference: float | None = None
    """Largest change of an output as a share of their scale, for those that should keep them."""

    @property
    def verdict(self) -> str:
        """What it buys."""
        return "too slow to measure well" if self.gain is None else self.gain.verdict

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Change:
        """What `dataclasses.asdict` gave."""
        return cls(**{**data, "gain": None if data["gain"] is None else Gain(**data["gain"])})


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A change that the model does not take, or that was not worth a run."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that was measured of the model on images of one size, in batches of one size."""

    image_size: tuple[int, int]
    batch_size: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int
    measuring: float
    """How many times as long a pass takes while its parts are timed."""
    parts: tuple[PartShare, ...]
    changes: tuple[Change, ...]
    refused: tuple[Refusal, ...]
    random_weights: bool
    """Whether the model was built for this size, with random weights."""

    @property
    def busy(self) -> bool:
        """Whether times of the same model spread so much that something else was running."""
        return self.p90_ms > BUSY * self.p10_ms

    @property
    def title(self) -> str:
        """Size and batch."""
        return f"{side(self.image_size)} px, batch {self.batch_size}"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Setting:
        """What `dataclasses.asdict` gave."""
        return cls(
            **{
                **data,
                "image_size": tuple(data["image_size"]),
                "parts": tuple(PartShare(**part) for part in data["parts"]),
                "changes": tuple(Change.from_dict(change) for change in data["changes"]),
                "refused": tuple(Refusal(**refusal) for refusal in data["refused"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Times of one attention over numbers of tokens."""

    name: str
    tokens: tuple[int, ...]
    median_ms: tuple[float, ...]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Curve:
        """What `dataclasses.asdict` gave."""
        return cls(name=data["name"], tokens=tuple(data["tokens"]), median_ms=tuple(data["median_ms"]))


@dataclass(frozen=True, kw_only=True)
class PlaceCurves:
    """Attentions in one kind of place of a model."""

    name: str
    batch_size: int
    curves: tuple[Curve, ...]
    crossings: tuple[Crossing, ...]
    """In tokens."""
    refused: tuple[Refusal, ...]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PlaceCurves:
        """What `dataclasses.asdict` gave."""
        return cls(
            name=data["name"],
            batch_size=data["batch_size"],
            curves=tuple(map(Curve.from_dict, data["curves"])),
            crossings=tuple(map(Crossing.from_dict, data["crossings"])),
            refused=tuple(Refusal(**refusal) for refusal in data["refused"]),
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """When and where a piece of advice was measured."""

    date: str
    path: str | None
    """Where it is kept; None where it was measured just now."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something to do, in the order in which to do it."""

    text: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """All that is known of a model on a device."""

    model: str
    machine: tuple[tuple[str, str], ...]
    """Device, threads, versions, as names and texts."""
    settings: tuple[Setting, ...]
    places: tuple[PlaceCurves, ...]
    crossings: tuple[Crossing, ...]
    """Of whole models, in pixels of a side."""
    refused: tuple[Refusal, ...]
    """Sizes that the model does not take."""
    steps: dict[str, tuple[Step, ...]]
    """What to do first, by the title of a setting."""
    checks: tuple[str, ...]
    """Commands that measure the whole models again."""
    measured: tuple[Measured, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Advice:
        """What `to_dict` gave, through JSON too."""
        return cls(
            model=data["model"],
            machine=tuple((name, value) for name, value in data["machine"]),
            settings=tuple(map(Setting.from_dict, data["settings"])),
            places=tuple(map(PlaceCurves.from_dict, data["places"])),
            crossings=tuple(map(Crossing.from_dict, data["crossings"])),
            refused=tuple(Refusal(**refusal) for refusal in data["refused"]),
            steps={title: tuple(Step(**step) for step in steps) for title, steps in data["steps"].items()},
            checks=tuple(data["checks"]),
            measured=tuple(Measured(**each) for each in data["measured"]),
        )


def side(image_size: Sequence[int]) -> str:
    """A size of images, as people say it."""
    height, width = image_size
    return str(height) if height == width else f"{height} x {width}"


def median_ms(seconds: Sequence[float]) -> float:
    """The median in milliseconds."""
    return 1000.0 * statistics.median(seconds)
