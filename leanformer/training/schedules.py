"""Schedules: a number as a pure function of the optimizer step.

The learning rate, the weight decay and every progressive technique are driven by the same few shapes. Nothing counts
steps but the loop, so accumulation, an extra forward pass or a resumed run cannot shift a schedule.
"""

from __future__ import annotations

import math

from leanformer.config import register_config
from leanformer.errors import ConfigError


class Schedule:
    """A value for optimizer step `step` of `total`, counted from 0; step `total` is where training has ended."""

    def __call__(self, step: int, total: int) -> float:
        """The value at the given step."""
        raise NotImplementedError


@register_config("constant")
class Constant(Schedule):
    """The same value throughout."""

    value: float = 1.0

    def __call__(self, step: int, total: int) -> float:
        """The value, whatever the step."""
        return self.value


@register_config("linear")
class Linear(Schedule):
    """A straight line from `start` to `end`, which it holds from the fraction `until` of training on."""

    start: float
    end: float
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise ConfigError(f"until is a fraction of training in (0, 1], got {self.until}")

    def __call__(self, step: int, total: int) -> float:
        """The value on the line."""
        return _between(self.start, self.end, step / (self.until * total))


@register_config("cosine")
class Cosine(Schedule):
    """Half a cosine from 1 down to `final`."""

    final: float = 0.0

    def __call__(self, step: int, total: int) -> float:
        """The value on the curve."""
        done = min(max(step / total, 0.0), 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


@register_config("piecewise")
class Piecewise(Schedule):
    """Straight lines through `points`, each a (fraction of training, value); two points at one fraction make a jump.

    A rate divided by ten after two thirds: `((0, 1), (2/3, 1), (2/3, 0.1))`. The first and last values extend outwards.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        fractions = [fraction for fraction, _ in self.points]
        if not fractions or fractions != sorted(fractions):
            raise ConfigError(f"points need fractions of training in rising order, got {self.points}")

    def __call__(self, step: int, total: int) -> float:
        """The value on the line through the two points around the step."""
        now = step / total
        before = [point for point in self.points if point[0] <= now]
        after = [point for point in self.points if point[0] > now]
        if not before:
            return after[0][1]
        if not after:
            return before[-1][1]
        (left, start), (right, end) = before[-1], after[0]
        return _between(start, end, (now - left) / (right - left))


@register_config("warm_up")
class WarmUp(Schedule):
    """A straight line from `start` to where `schedule` begins, then `schedule`.

    Its length is `steps`, or `fraction` of training. With `shift` the schedule is squeezed into the steps that remain;
    without, its clock runs from step 0 and the warm-up covers its beginning (what timm does by default).
    """

    schedule: Schedule
    fraction: float = 0.0
    steps: int = 0
    start: float = 0.0
    shift: bool = True

    def __post_init__(self) -> None:
        if (self.fraction > 0) == (self.steps > 0) or not 0 <= self.fraction < 1 or self.steps < 0:
            raise ConfigError(
                f"a warm-up is given by steps > 0 or by a fraction in (0, 1), got steps={self.steps} and "
                f"fraction={self.fraction}"
            )

    def __call__(self, step: int, total: int) -> float:
        """The value of the warm-up or, after it, of the schedule."""
        length = min(self.steps or round(self.fraction * total), total)
        if step < length:
            return _between(self.start, self.schedule(0, total), step / length)
        if self.shift:
            return self.schedule(step - length, max(total - length, 1))
        return self.schedule(step, total)


def _between(start: float, end: float, share: float) -> float:
    share = min(max(share, 0.0), 1.0)
    return start * (1 - share) + end * share
