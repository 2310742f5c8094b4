"""Times of parts are each counted once, and nothing of the measurement stays in the model."""

from __future__ import annotations

import itertools

import pytest
import torch

import leanformer
from leanformer.bench import time_parts
from leanformer.bench.part_times import Clock


@pytest.mark.parametrize("name", ["swin_nano", "cswin_nano", "swiftformer_nano"])
def test_the_parts_of_a_model_are_the_whole_and_inner_modules_count_once(name):
    model = leanformer.build(name).eval()
    ticks = itertools.count()
    times = time_parts(
        model, torch.zeros(1, 3, *model.config.image_grid), repeats=2, watch=Clock(lambda: float(next(ticks)))
    )
    assert sum(times.ms.values()) == pytest.approx(times.whole_ms)
    assert sum(times.shares.values()) == pytest.approx(1.0)
    assert all(ms > 0 for ms in times.ms.values())
    assert {"stem", "attention", "MLP", "norms", "head", "the rest"} <= set(times.ms)
    assert ("windows" in times.ms) == (name != "swiftformer_nano")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_plain_pass_is_compared_with_one_that_is_watched():
    model = leanformer.build("deit_nano").eval()
    ticks = itertools.count()
    times = time_parts(model, torch.zeros(1, 3, 64, 64), repeats=1, watch=Clock(lambda: float(next(ticks))))
    assert times.measuring == pytest.approx(times.whole_ms / 1000.0)  # a plain pass reads the clock twice: one tick
