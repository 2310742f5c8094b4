"""No speed-up is reported where outputs should agree and do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leanformer.bench.compare import check_outputs, compare, gate
from leanformer.bench.latency import Runner, fixed_batch
from leanformer.errors import ConfigError


def pooled(images: Tensor) -> Tensor:
    return images.mean(dim=(2, 3))


def runner(name: str, factor: float = 1.0, same_as: str | None = None) -> Runner:
    return Runner(name=name, call=lambda images: factor * pooled(images), same_as=same_as)


def compared(*runners: Runner):
    return compare(runners, batch_size=2, image_size=(5, 7), warmup=0, repeats=3)


def test_equal_outputs_allow_a_speed_up():
    result = compared(runner("eager"), runner("folded", 1.0 + 1e-6, same_as="eager"))
    assert result.agreements[0].passed
    assert result.timings[1].speedup is not None and result.timings[1].note == ""


def test_different_outputs_forbid_it_and_say_why():
    result = compared(runner("eager"), runner("folded", 1.01, same_as="eager"))
    timing = result.timings[1]
    assert timing.speedup is None and timing.speedup_interval is None
    assert timing.note == "no speed-up: folded differs from eager by 1.0e-02 of its scale (allowed 1e-04)"
    assert timing.median_ms > 0.0


def test_a_different_model_may_be_compared_in_speed_alone():
    result = compared(runner("deit"), runner("slab", 3.0))
    assert result.agreements == () and result.timings[1].speedup is not None


def test_agreeing_with_a_wrong_result_allows_nothing():
    result = compared(runner("eager"), runner("folded", 1.01, same_as="eager"), runner("file", 1.01, same_as="folded"))
    assert result.agreements[1].passed
    assert result.timings[2].speedup is None and "folded differs from eager" in result.timings[2].note


def test_not_a_number_is_never_equal():
    (agreement,) = check_outputs([runner("a"), runner("b", float("nan"), same_as="a")], fixed_batch(1, 4))
    assert not agreement.passed


def test_outputs_of_other_shapes_are_never_equal():
    other = Runner(name="b", call=lambda images: pooled(images)[:, :2], same_as="a")
    (agreement,) = check_outputs([runner("a"), other], fixed_batch(1, 4))
    assert not agreement.passed


def test_the_difference_is_relative_to_the_reference():
    scaled = Runner(name="a", call=lambda images: 1000.0 * torch.ones(1, 2))
    moved = Runner(name="b", call=lambda images: 1000.0 * torch.ones(1, 2) + 0.05, same_as="a")
    (agreement,) = check_outputs([scaled, moved], fixed_batch(1, 4))
    assert agreement.max_diff == pytest.approx(0.05, rel=1e-2) and agreement.passed


def test_a_reference_that_is_not_measured_is_refused():
    with pytest.raises(ConfigError, match="'folded' is compared with 'eagre', which is not measured before it"):
        compared(runner("eager"), runner("folded", same_as="eagre"))


def test_the_gate_leaves_timings_alone_when_all_agree():
    result = compared(runner("eager"), runner("folded", same_as="eager"))
    assert tuple(gate(result.timings, result.agreements)) == result.timings


def test_nothing_runs_before_the_settings_are_checked():
    def fail(images: Tensor) -> Tensor:
        raise AssertionError("ran")

    silent = Runner(name="eager", call=fail)
    with pytest.raises(ConfigError, match="batch_size, repeats and threads must be at least 1, got 0, 3, None"):
        compare([silent, runner("b", same_as="eager")], batch_size=0, image_size=4, repeats=3)
    with pytest.raises(ConfigError, match="there is nothing to measure"):
        compare([], batch_size=1, image_size=4)


def test_models_of_timm_are_built_for_the_size_that_is_asked_for():
    from leanformer.bench.others import build_timm_model, has_timm_model
    from leanformer.errors import ConfigError

    assert has_timm_model("deit_tiny_patch16_224") and not has_timm_model("deit_minuscule")
    model, size = build_timm_model("vit_tiny_patch16_224", 64)
    assert size == (64, 64) and model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    model, size = build_timm_model("mobilenetv4_conv_small.e2400_r224_in1k", 96)
    assert size == (96, 96) and not model.training
    assert build_timm_model("deit_tiny_patch16_224")[1] == (224, 224)
    with pytest.raises(ConfigError, match="levit_128 of timm takes no images of 100 x 100"):
        build_timm_model("levit_128", 100)
