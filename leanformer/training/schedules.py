"""Schedules: a number as a pure function of the optimizer step.

The learning rate, the weight decay and every progressive technique are driven by the same few shapes. Nothing counts
steps but the loop, so accumulation, an extra forward pass or a resumed run cannot shift a schedule.
"""

from __future__ import annotations

import math

from leanformer.config import register_config
from leanformer.errors import ConfigError


class Schedule:
    """A value for optimizer step `step` of `total`, counted from 0; step `total` is where training has ended.

    `epochs` is the number of epochs in `total`, for those that are told in epochs.
    """

    def __call__(self, step: int, total: int, epochs: int = 1) -> float:
        """The value at the given step."""
        raise NotImplementedError


@register_config("constant")
class Constant(Schedule):
    """The same value throughout."""

    value: float = 1.0

    def __post_init__(self) -> None:
        _check("value", self.value)

    def __call__(self, step: int, total: int, epochs: int = 1) -> float:
        """The value, whatever the step."""
        return self.value


@register_config("linear")
class Linear(Schedule):
    """A straight line from `start` to `end`, which it holds from the fraction `until` of training on."""

    start: float
    end: float
    until: float = 1.0

    def __post_init__(self) -> None:
        _check("start", self.start)
        _check("end", self.end)
        if not 0 < self.until <= 1:
            raise ConfigError(f"until is a fraction of training in (0, 1], got {self.until}")

    def __call__(self, step: int, total: int, epochs: int = 1) -> float:
        """The value on the line."""
        return _between(self.start, self.end, step / (self.until * total))


@register_config("cosine")
class Cosine(Schedule):
    """Half a cosine from 1 down to `final`."""

    final: float = 0.0

    def __post_init__(self) -> None:
        _check("final", self.final)

    def __call__(self, step: int, total: int, epochs: int = 1) -> float:
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
        for fraction, value in self.points:
            _check("a fraction of training in points", fraction)
            _check("a value in points", value)

    def __call__(self, step: int, total: int, epochs: int = 1) -> float:
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


@register_config("steps")
class Steps(Schedule):
    """1, multiplied by `factor` at each of the epochs `at`, or after `every` so many epochs."""

    factor: float = 0.1
    at: tuple[float, ...] = ()
    every: float = 0.0

    def __post_init__(self) -> None:
        if bool(self.at) == (self.every > 0) or self.every < 0:
            raise ConfigError(f"give the epochs of the drops by at or by every, got at={self.at}, every={self.every}")
        for name, value in (
            ("factor", self.factor),
            ("every", self.every),
            *(("an epoch in at", at) for at in self.at),
        ):
            _check(name, value)

    def __call__(self, step: int, total: int, epochs: int = 1) -> float:
        """The value after the drops up to the step."""
        if self.every:
            return self.factor ** (step // in_steps(self.every, total, epochs))
        return self.factor ** sum(step >= in_steps(epoch, total, epochs) for epoch in self.at)


@register_config("warm_up")
class WarmUp(Schedule):
    """A straight line from `start` to where `schedule` begins, then `schedule`.

    Its length is `steps`, `epochs`, or `fraction` of training. With `shift` the schedule is squeezed into the steps
    that remain; without, its clock runs from step 0 and the warm-up covers its beginning (what timm does by default).
    With `inclusive` the last step of the warm-up already has the value that the schedule begins with.
    """

    schedule: Schedule
    fraction: float = 0.0
    steps: int = 0
    epochs: float = 0.0
    start: float = 0.0
    shift: bool = True
    inclusive: bool = False

    def __post_init__(self) -> None:
        given = [value for value in (self.fraction, self.steps, self.epochs) if value]
        if len(given) != 1 or given[0] < 0 or self.fraction >= 1:
            raise ConfigError(
                f"a warm-up is given by steps > 0, by epochs > 0 or by a fraction in (0, 1), got steps={self.steps}, "
                f"epochs={self.epochs} and fraction={self.fraction}"
            )
        for name in ("fraction", "epochs", "start"):
            _check(name, getattr(self, name))

    def __call__(self, step: int, total: int, epochs: int = 1) -> float:
        """The value of the warm-up or, after it, of the schedule."""
        wanted = self.steps or (in_steps(self.epochs, total, epochs) if self.epochs else round(self.fraction * total))
        length = min(wanted, total)
        if step < length:
            end = self.schedule(0, total, epochs)
            return _between(self.start, end, step / max(length - self.inclusive, 1))
        if self.shift:
            return self.schedule(step - length, max(total - length, 1), epochs)
        return self.schedule(step, total, epochs)


@register_config("cool_down")
class CoolDown(Schedule):
    """`schedule` in all but the last `epochs`, in which its last value is held."""

    schedule: Schedule
    epochs: float

    def __post_init__(self) -> None:
        _check("epochs", self.epochs)

    def __call__(self, step: int, total: int, epochs: int = 1) -> float:
        """The value of the schedule, which ends before training does."""
        end = max(total - in_steps(self.epochs, total, epochs), 1)
        return self.schedule(min(step, end), end, max(round(epochs - self.epochs), 1))


@register_config("per_epoch")
class PerEpoch(Schedule):
    """The values of `schedule` at the beginnings of epochs, each held for its epoch.

    Within it a step is an epoch.
    """

    schedule: Schedule

    def __call__(self, step: int, total: int, epochs: int = 1) -> float:
        """The value of the present epoch."""
        return self.schedule(step * epochs // total, epochs, epochs)


@register_config("lag")
class Lag(Schedule):
    """`schedule` one step late, as where it is advanced after a step with the number of that step; the first value
    comes twice.

    Several published trainings do so: per step, `Lag(...)`, or per epoch, `PerEpoch(schedule=Lag(...))`.
    """

    schedule: Schedule

    def __call__(self, step: int, total: int, epochs: int = 1) -> float:
        """The value of the step before."""
        return self.schedule(max(step - 1, 0), total, epochs)


def in_steps(length: float, total: int, epochs: int) -> int:
    """A length in epochs as optimizer steps, at least one."""
    return max(round(length * total / epochs), 1)


def _check(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name} must be finite and 0 or more, got {value}")


def _between(start: float, end: float, share: float) -> float:
    share = min(max(share, 0.0), 1.0)
    return start * (1 - share) + end * share
