"""Schedules equal their formulas at every step, stay within range outside of training and survive JSON."""

import math

import pytest

from leanformer.config import from_dict, to_dict
from leanformer.errors import ConfigError
from leanformer.training.schedules import (
    Constant,
    CoolDown,
    Cosine,
    Lag,
    Linear,
    PerEpoch,
    Piecewise,
    Schedule,
    Steps,
    WarmUp,
)

EVERY_SCHEDULE = [
    Constant(value=0.3),
    Linear(start=1.0, end=0.0, until=0.6),
    Cosine(final=0.01),
    Piecewise(points=((0.0, 1.0), (0.5, 1.0), (0.5, 0.1))),
    WarmUp(schedule=Cosine(), steps=3),
    WarmUp(schedule=Linear(start=1.0, end=0.5), fraction=0.2, start=0.1, shift=False),
    CoolDown(schedule=Cosine(), epochs=0.5),
    PerEpoch(schedule=Lag(schedule=Cosine())),
    Steps(factor=0.5, every=0.25),
    Steps(factor=0.5, at=(0.3, 0.6)),
]


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE, ids=lambda s: s.kind)
def test_every_schedule_survives_json(schedule):
    assert from_dict(to_dict(schedule), Schedule) == schedule


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE, ids=lambda s: s.kind)
def test_every_schedule_is_defined_from_the_first_step_to_the_end(schedule):
    values = [schedule(step, 7) for step in range(8)]
    assert all(isinstance(value, float) and math.isfinite(value) for value in values)
    assert values == [schedule(step, 7) for step in range(8)]


def test_a_line_reaches_its_end_at_the_given_fraction_and_holds_it():
    line = Linear(start=1.0, end=0.0, until=0.6)
    assert [round(line(step, 10), 9) for step in range(11)] == pytest.approx([1 - min(s / 6, 1) for s in range(11)])
    assert line(6, 10) == 0.0


def test_cosine_falls_from_one_to_final():
    cosine = Cosine(final=0.1)
    assert cosine(0, 8) == 1.0
    assert cosine(4, 8) == pytest.approx(0.55)
    assert cosine(8, 8) == pytest.approx(0.1)
    assert cosine(3, 8) == pytest.approx(0.1 + 0.45 * (1 + math.cos(3 * math.pi / 8)))


def test_two_points_at_one_fraction_make_a_jump():
    steps = Piecewise(points=((0.0, 1.0), (0.5, 1.0), (0.5, 0.1), (0.75, 0.1), (0.75, 0.01)))
    assert [steps(step, 8) for step in range(8)] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_between_points_the_value_is_interpolated():
    ramp = Piecewise(points=((0.25, 2.0), (0.75, 4.0)))
    assert [ramp(step, 8) for step in range(9)] == pytest.approx([2, 2, 2, 2.5, 3, 3.5, 4, 4, 4])


def test_warm_up_meets_the_schedule_where_it_begins():
    warm = WarmUp(schedule=Cosine(), steps=4, start=0.2)
    assert [warm(step, 12) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [warm(step, 12) for step in range(4, 13)] == pytest.approx([Cosine()(s, 8) for s in range(9)])


def test_without_shift_the_warm_up_covers_the_beginning_of_the_schedule():
    warm = WarmUp(schedule=Cosine(), fraction=0.25, shift=False)
    assert warm(0, 8) == 0.0
    assert warm(1, 8) == 0.5
    assert warm(2, 8) == Cosine()(2, 8)


def test_a_warm_up_longer_than_training_only_rises():
    warm = WarmUp(schedule=Cosine(), steps=50)
    values = [warm(step, 5) for step in range(5)]
    assert values == sorted(values)


@pytest.mark.parametrize(
    "make, part",
    [
        (lambda: WarmUp(schedule=Cosine()), "steps=0"),
        (lambda: WarmUp(schedule=Cosine(), steps=2, fraction=0.1), "fraction=0.1"),
        (lambda: WarmUp(schedule=Cosine(), steps=2, epochs=2), "epochs=2"),
        (lambda: Steps(), r"at=\(\), every=0"),
        (lambda: Linear(start=1.0, end=0.0, until=0.0), "0.0"),
        (lambda: Piecewise(points=((0.5, 1.0), (0.2, 1.0))), "rising"),
        (lambda: Piecewise(points=((math.nan, 1.0),)), "a fraction of training in points must be finite .*, got nan"),
        (lambda: Piecewise(points=((0.0, -1.0),)), "a value in points must be finite and 0 or more, got -1.0"),
        (lambda: Constant(value=-1.0), "value must be finite and 0 or more, got -1.0"),
        (lambda: Linear(start=math.inf, end=0.0), "start must be finite and 0 or more, got inf"),
        (lambda: Linear(start=1.0, end=-0.5), "end must be finite and 0 or more, got -0.5"),
        (lambda: Cosine(final=-5.0), "final must be finite and 0 or more, got -5.0"),
        (lambda: Steps(at=(-1.0, -2.0)), "an epoch in at must be finite and 0 or more, got -1.0"),
        (lambda: Steps(at=(math.nan,)), "an epoch in at must be finite and 0 or more, got nan"),
        (lambda: Steps(factor=-1.0, every=2.0), "factor must be finite and 0 or more, got -1.0"),
        (lambda: Steps(every=math.inf), "every must be finite and 0 or more, got inf"),
        (lambda: WarmUp(schedule=Cosine(), epochs=math.nan), "epochs must be finite and 0 or more, got nan"),
        (lambda: WarmUp(schedule=Cosine(), steps=1, start=-1.0), "start must be finite and 0 or more, got -1.0"),
        (lambda: CoolDown(schedule=Cosine(), epochs=-50), "epochs must be finite and 0 or more, got -50"),
        (lambda: CoolDown(schedule=Cosine(), epochs=math.nan), "epochs must be finite and 0 or more, got nan"),
    ],
)
def test_an_impossible_schedule_names_the_value(make, part):
    with pytest.raises(ConfigError, match=part):
        make()


def test_an_epoch_holds_the_value_of_its_beginning():
    held = PerEpoch(schedule=Linear(start=1.0, end=0.0))
    assert [held(step, 12, 4) for step in range(13)] == pytest.approx(
        [1.0] * 3 + [0.75] * 3 + [0.5] * 3 + [0.25] * 3 + [0]
    )


def test_a_lag_repeats_the_first_value():
    assert [Lag(schedule=Linear(start=0.0, end=1.0))(step, 4) for step in range(5)] == [0, 0, 0.25, 0.5, 0.75]


def test_a_warm_up_that_includes_its_end_meets_the_schedule_a_step_early():
    warm = WarmUp(schedule=Cosine(), steps=3, inclusive=True)
    assert [warm(step, 9) for step in range(4)] == [0.0, 0.5, 1.0, 1.0]


def test_in_the_cool_down_the_last_value_is_held():
    cool = CoolDown(schedule=Cosine(final=0.1), epochs=2)
    assert [cool(step, 30, 10) for step in (24, 25, 29, 30)] == pytest.approx([0.1] * 4)
    assert cool(12, 30, 10) == Cosine(final=0.1)(12, 24)


def test_drops_come_at_their_epochs():
    values = [Steps(factor=0.5, at=(1, 3))(step, 8, 4) for step in range(8)]
    assert values == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert [Steps(factor=0.5, every=2)(step, 8, 4) for step in range(8)] == [1] * 4 + [0.5] * 4
