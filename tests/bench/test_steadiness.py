"""A machine that was not steady is said to have been so."""

from __future__ import annotations

import pytest

from leanformer.bench import disturbances


def test_steady_times_are_not_remarked_on():
    assert disturbances("a", [1.0, 1.05, 1.1] * 20) == []


def test_a_few_rounds_tell_nothing():
    assert disturbances("a", [1.0, 5.0] * 4) == []


def test_a_busy_machine_is_named_with_the_spread():
    (line,) = disturbances("eager", [1.0, 1.0, 2.0] * 20)
    assert line.startswith("the machine was busy: times of eager spread 2.0-fold")


@pytest.mark.parametrize(("last", "said"), [(1.2, "slower by 20%"), (0.85, "faster by 15%")])
def test_drift_is_named_with_its_direction(last, said):
    (line,) = disturbances("eager", [1.0] * 20 + [1.0 + (last - 1) / 2] * 20 + [last] * 20)
    assert f"eager became {said} from the first to the last third" in line
