"""From which size on one way of computing is faster than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leanformer.compression.figures import Gain


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where `name` becomes faster than `baseline` for good, as far as was measured."""

    name: str
    baseline: str
    at: float | None
    """The size from which on it is faster, between two that were measured; None for none."""
    between: tuple[int, int] | None
    """The largest measured size at which it is not faster for sure, and the next, from which on it is; twice the same
    if it is faster at all that were measured."""
    up_to: int
    """The largest size at which both were measured."""

    def text(self, unit: str) -> str:
        """In words, sizes in `unit`."""
        if self.at is None or self.between is None:
            return f"none up to {self.up_to:,} {unit}"
        low, high = self.between
        if low == high:
            return f"at {low:,} {unit} already"
        return f"{self.at:,.0f} {unit} (between {low:,} and {high:,})"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Crossing:
        """What `dataclasses.asdict` gave."""
        between = data["between"]
        return cls(**{**data, "between": None if between is None else tuple(between)})


def find_crossing(name: str, baseline: str, sizes: Sequence[int], gains: Sequence[Gain]) -> Crossing:
    """The smallest size from which on all gains are more than noise.

    Between it and the size before, the place where the speed-up is 1 is interpolated on logarithmic scales, on which
    both times are nearly straight. Where the speed-up is above 1 at the size before, but within the noise, it is the
    size that is sure.

    Args:
        sizes: that were measured, growing, at least one.
        gains: of `name` over `baseline` at each.
    """
    sure = len(sizes)
    while sure and gains[sure - 1].low > 1.0:
        sure -= 1
    if sure == len(sizes):
        return Crossing(name=name, baseline=baseline, at=None, between=None, up_to=sizes[-1])
    before = max(sure - 1, 0)
    at: float = sizes[sure]
    if before < sure and gains[before].speedup < 1.0:
        low, high = math.log(gains[before].speedup), math.log(gains[sure].speedup)
        at = math.exp(math.log(sizes[before]) - low / (high - low) * math.log(sizes[sure] / sizes[before]))
    return Crossing(name=name, baseline=baseline, at=at, between=(sizes[before], sizes[sure]), up_to=sizes[-1])
