"""Learning rates and lambdas equal those that the published trainings used, step by step."""

import golden
import numpy as np
import pytest
from published import HERE

from leanformer.training.schedules import CoolDown, Cosine, Lag, Linear, PerEpoch, Piecewise, Schedule, Steps, WarmUp


def timm(schedule: Schedule, warm_up: float, start: float, cool_down: float = 0, shift: bool = False) -> Schedule:
    """timm's order: the warm-up covers the beginning, the cool-down follows."""
    if cool_down:
        schedule = CoolDown(schedule=schedule, epochs=cool_down)
    return WarmUp(schedule=schedule, epochs=warm_up, start=start, shift=shift) if warm_up else schedule


FLATTEN = {
    "flatten_swin_t.cosine": (1e-3, 300, timm(Cosine(final=1e-2), 20, 1e-3)),
    "flatten_swin_t.linear": (1e-3, 300, timm(Linear(start=1.0, end=0.01), 20, 1e-3, shift=True)),
    "flatten_swin_t.step": (1e-3, 300, timm(Steps(every=30), 20, 1e-3)),
    "flatten_cswin_t.cosine": (2e-3, 310, timm(Cosine(final=0.02), 20, 2e-3, 10)),
    "flatten_pvt_t.cosine": (1e-3, 310, timm(Cosine(final=0.02), 5, 2e-3, 10)),
    "flatten_cswin_b_384.cosine": (2.5e-6, 30, timm(Cosine(final=0.1), 0, 0, 10)),
    "flatten_swin_b_384.cosine": (1e-5, 30, timm(Cosine(final=0.01), 5, 1e-3)),
}


def rates(schedule: Schedule, lr: float, total: int, epochs: int, every: int = 1) -> list[float]:
    return [lr * schedule(step, total, epochs) for step in range(0, total, every)]


def equal(ours, theirs) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("key", FLATTEN)
def test_rates_equal_flatten_whose_scheduler_is_a_step_late(key):
    lr, epochs, schedule = FLATTEN[key]
    expected = golden.load(HERE / "flatten/lr_schedules.npz")[1][f"extra_{key}"]
    equal(rates(Lag(schedule=schedule), lr, 5 * epochs, epochs), expected)


@pytest.mark.parametrize("key", sorted(golden.load(HERE / "slab/modules/recipes.npz")[0]["recipes"]))
def test_rates_equal_slab(key):
    recipe = golden.load(HERE / "slab/modules/recipes.npz")[0]["recipes"][key]
    lr, epochs = recipe["base_lr"], recipe["epochs"] + recipe["cooldown"]
    start, final = recipe["warmup_lr"] / lr, recipe["min_lr"] / lr
    schedule = timm(Cosine(final=final), recipe["warmup_epochs"], start, recipe["cooldown"])
    total = epochs * recipe["n_iter"]
    at = {int(step): rate for step, rate in recipe["lr_at"].items()}
    equal([lr * schedule(step, total, epochs) for step in at], list(at.values()))


@pytest.mark.parametrize(
    ("path", "name", "epochs"),
    [
        ("swiftformer/training_pieces", "extra_lr_per_epoch", 300),
        ("attention_removal/module_recipe", "extra_lr_used", 400),
    ],
)
def test_rates_equal_trainings_whose_scheduler_is_an_epoch_late(path, name, epochs):
    schedule = PerEpoch(schedule=Lag(schedule=timm(Cosine(final=5e-3), 5, 5e-4)))
    expected = np.repeat(golden.load(HERE / f"{path}.npz")[1][name], 3)
    equal(rates(schedule, 2e-3, 3 * epochs, epochs), expected)


L2VIT = {
    "pretrain_1k": (4e-3, 300, 312, WarmUp(schedule=Cosine(final=2.5e-4), epochs=20, inclusive=True)),
    "finetune": (4e-5, 30, 1251, WarmUp(schedule=Cosine(final=1e-2), epochs=5, start=1e-3, inclusive=True)),
    "onecycle": (4e-3, 300, 312, Piecewise(points=((0, 0), (0.4, 1), (0.8, 0.05), (1, 0)))),
}


@pytest.mark.parametrize("key", L2VIT)
def test_rates_equal_l2vit(key):
    lr, epochs, steps, schedule = L2VIT[key]
    expected = golden.load(HERE / "l2vit/training_pieces.npz")[1][f"extra_lr_{key}_every97"]
    equal(rates(schedule, lr, epochs * steps, epochs, every=97), expected)


def test_lambda_equals_attention_dilution():
    _, arrays = golden.load(HERE / "attention_removal/module_lambda_schedule.npz")
    line = Linear(start=1.0, end=0.0, until=299 / 400)
    equal([line(float(epoch), 400, 400) for epoch in arrays["extra_epoch"]], arrays["extra_lambda"])
    held = PerEpoch(schedule=line)
    whole = dict(zip(arrays["extra_epoch"].tolist(), arrays["extra_lambda"], strict=True))
    equal([held(3 * epoch + 2, 1200, 400) for epoch in range(400)], [whole[epoch] for epoch in range(400)])
