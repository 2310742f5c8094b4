"""Times are taken in turns, summarized as medians and compared round by round."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from leanformer.bench.latency import (
    Runner,
    eager_runner,
    measure_interleaved,
    median_interval,
    quantile,
    summarize,
    torch_threads,
    with_speedup,
)
from leanformer.errors import ConfigError


class FakeMachine:
    """A clock that moves only when a runner is called, and a record of the calls."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def clock(self) -> float:
        return self.now

    def runner(self, name: str, *seconds: float) -> Runner:
        """Takes the given seconds at its calls, again from the first after the last."""

        def call(images: torch.Tensor) -> torch.Tensor:
            self.now += seconds[self.calls.count(name) % len(seconds)]
            self.calls.append(name)
            return images.mean(dim=(2, 3))

        return Runner(name=name, call=call)

    def measure(
        self, *runners: Runner, batch_size: int = 1, warmup: int = 0, repeats: int = 4, min_seconds: float = 0.0
    ):
        return measure_interleaved(
            runners,
            batch_size=batch_size,
            image_size=(5, 7),
            warmup=warmup,
            repeats=repeats,
            min_seconds=min_seconds,
            clock=self.clock,
        )


def test_runners_take_turns_in_alternating_order_each_timed_call_after_an_untimed_one():
    machine = FakeMachine()
    machine.measure(*(machine.runner(name, 1.0) for name in "abc"), repeats=3)
    assert "".join(machine.calls) == "aabbcc" + "ccbbaa" + "aabbcc"


def test_warm_up_rounds_are_not_timed():
    machine = FakeMachine()
    (timing,) = machine.measure(machine.runner("a", 100.0, 100.0, 1.0, 1.0, 1.0, 1.0), warmup=2, repeats=2)
    assert timing.median_ms == timing.p90_ms == 1000.0


def test_only_the_second_call_of_a_turn_is_timed():
    machine = FakeMachine()
    (timing,) = machine.measure(machine.runner("a", 9.0, 0.002))
    assert timing.median_ms == pytest.approx(2.0) and timing.repeats == 4


def test_rounds_go_on_until_the_least_time_has_passed():
    machine = FakeMachine()
    (timing,) = machine.measure(machine.runner("a", 0.5), repeats=2, min_seconds=10.0)
    assert timing.repeats == 10


def test_the_speed_up_is_the_median_of_the_ratios_of_each_round():
    machine = FakeMachine()
    slow = machine.runner("slow", 0, 4.0, 0, 40.0, 0, 4.0)  # the machine is ten times slower in the second round
    fast = machine.runner("fast", 0, 2.0, 0, 20.0, 0, 1.0)
    first, second = machine.measure(slow, fast, repeats=3)
    assert first.speedup == 1.0 and first.speedup_interval == (1.0, 1.0)
    assert second.speedup == 2.0 and second.speedup_interval == (2.0, 4.0)
    assert second.median_ms == 2000.0


def test_images_per_second_count_the_batch():
    machine = FakeMachine()
    (timing,) = machine.measure(machine.runner("a", 0.25), batch_size=3)
    assert timing.images_per_s == pytest.approx(12.0)


def test_median_and_quantiles_of_known_times():
    timing = summarize("a", [0.005, 0.001, 0.002, 0.003, 0.004], batch_size=1)
    assert (timing.median_ms, timing.min_ms) == (3.0, 1.0)
    assert timing.p10_ms == pytest.approx(1.4) and timing.p90_ms == pytest.approx(4.6)
    assert quantile([7.0], 0.9) == 7.0


def test_the_interval_of_a_median_follows_the_binomial_distribution():
    assert median_interval([float(value) for value in range(1, 101)]) == (
        41.0,
        60.0,
    )  # the tabled ranks for n = 100, within one
    assert median_interval([3.0]) == (3.0, 3.0)


def test_the_interval_of_a_median_covers_it_about_95_times_in_100():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(1000, 30, generator=generator).sort(dim=1).values.tolist()
    covered = sum(low <= 0.0 <= high for low, high in map(median_interval, samples))
    assert 0.93 <= covered / 1000 <= 0.99


def test_equal_runners_get_an_interval_around_one():
    seconds = [1.0, 2.0, 3.0, 2.0]
    timing = with_speedup(summarize("b", seconds, batch_size=1), seconds, [1.1, 1.9, 3.1, 2.0])
    assert timing.speedup_interval is not None
    assert timing.speedup_interval[0] <= 1.0 <= timing.speedup_interval[1]


def test_the_number_of_threads_holds_for_the_measurement_alone():
    before = torch.get_num_threads()
    seen: list[int] = []

    def call(images: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return images

    measure_interleaved([Runner(name="a", call=call)], batch_size=1, image_size=4, warmup=0, repeats=1, threads=2)
    assert set(seen) == {2} and torch.get_num_threads() == before


def test_a_model_is_measured_in_evaluation_mode_without_gradients():
    class Watching(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            assert not self.training and torch.is_inference_mode_enabled()
            return super().forward(input.flatten(1))

    timings = measure_interleaved([eager_runner("a", Watching(75, 2))], batch_size=2, image_size=5, warmup=1, repeats=2)
    assert timings[0].median_ms > 0.0


def test_a_runner_gets_images_of_its_own_type():
    def call(images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.bfloat16
        return images

    runner = eager_runner("a", nn.Conv2d(3, 2, 1).to(torch.bfloat16))
    measure_interleaved([dataclasses.replace(runner, call=call)], batch_size=1, image_size=4, warmup=0, repeats=1)


def test_a_runner_with_other_threads_than_measured_is_refused():
    runner = Runner(name="file", call=torch.relu, threads=5)
    with pytest.raises(ConfigError, match="'file' was opened with 5 threads, but 2 are measured"):
        measure_interleaved([runner], batch_size=1, image_size=4, threads=2)


def test_two_runners_of_one_name_are_refused():
    runner = Runner(name="same", call=torch.relu)
    with pytest.raises(ConfigError, match="two runners are named 'same'"):
        measure_interleaved([runner, runner], batch_size=1, image_size=4)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"repeats": 0}, {"threads": 0}], ids=str)
def test_counts_below_one_are_refused(wrong):
    settings = {"batch_size": 1, "image_size": 4, "repeats": 1} | wrong
    with pytest.raises(ConfigError, match="must be at least 1"):
        measure_interleaved([Runner(name="a", call=torch.relu)], **settings)


def test_measuring_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least one model"):
        measure_interleaved([], batch_size=1, image_size=4)


def test_a_failed_measurement_gives_the_threads_back():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
