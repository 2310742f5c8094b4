"""A collapsing run goes back and goes on slower, the same whether or not it is stopped on the way; a run that gets no
better ends."""

import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from leanformer.config import from_dict, to_dict
from leanformer.data.synthetic import shapes
from leanformer.errors import ConfigError, TrainingError
from leanformer.tasks import Classification
from leanformer.training import SGD, Constant, Linear, Scheduled, fit
from leanformer.training.callbacks import Callback
from leanformer.training.guard import Diverged, EarlyStopping, Guard, WatchLoss
from leanformer.training.state import StepResult, Trouble


class Spoil(Callback):
    """Destroys the classifier at a step, as long as the rate is above a limit; and notes the rates."""

    def __init__(self, at, value=float("nan"), above=0.6, stop_at=None):
        self.at, self.value, self.above, self.stop_at = at, value, above, stop_at
        self.rates = []

    def on_step(self, run, step):
        if self.stop_at is not None and step == self.stop_at and run.trouble.collapses:
            raise KeyError("stopped")
        self.rates.append((step, run.optimizer.param_groups[0]["lr"]))
        if step == self.at and run.trouble.rate_factor > self.above:
            run.model.head.linear.bias.data[0] = self.value


@pytest.fixture
def guarded(nano_config):
    return replace(nano_config, lr=Constant(), guard=Guard(after=4, explosion=20.0))


@pytest.mark.parametrize("value", [float("nan"), 1e4])
def test_a_collapse_goes_back_to_the_last_checkpoint_and_halves_the_rate(value, guarded, nano_data, read_log, caplog):
    spoil = Spoil(11, value)
    with caplog.at_level(logging.WARNING):
        result = fit(guarded, data=nano_data, callbacks=[spoil])
    assert result.steps == 18
    assert [step for step, _ in spoil.rates] == [*range(12), *range(8, 18)]
    assert [rate for step, rate in spoil.rates[12:]] == pytest.approx([0.0015] * 10)
    assert "back at step 8 with the learning rate times 0.5 (1 of 3)" in caplog.text
    records = read_log(guarded.out)
    assert [r["step"] for r in records if r["event"] == "step"] == [3, 6, 9, 12, 15, 18]
    (rollback,) = [r for r in records if r["event"] == "rollback"]
    assert (rollback["step"], rollback["rate_factor"]) == (8, 0.5)


def test_a_run_that_went_back_and_was_stopped_ends_alike(guarded, nano_data, tmp_path):
    straight = fit(replace(guarded, out=tmp_path / "straight"), data=nano_data, callbacks=[Spoil(11)]).model
    with pytest.raises(KeyError):
        fit(guarded, data=nano_data, callbacks=[Spoil(11, stop_at=10)])
    resumed = fit(guarded, data=nano_data, resume=True, callbacks=[Spoil(11)]).model
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("value", [float("nan"), 1e4])
def test_a_checkpoint_that_holds_the_collapse_is_passed_over(value, guarded, nano_data, caplog):
    class SpoilUpdate(Callback):
        """Destroys the classifier in the update just before a checkpoint."""

        def on_start(self, run):
            def spoil(*_):
                if run.step == 7 and run.trouble.rate_factor > 0.6:
                    run.model.head.linear.bias.data[0] = value

            run.optimizer.register_step_post_hook(spoil)

    with caplog.at_level(logging.WARNING):
        result = fit(guarded, data=nano_data, callbacks=[SpoilUpdate()])
    assert (
        "loss of step 8 is" in caplog.text and "back at step 6 with the learning rate times 0.5 (1 of 3)" in caplog.text
    )
    assert caplog.text.count("back at step") == 1 and result.steps == 18


@pytest.mark.parametrize("loss, limit", [("cross_entropy", math.log(4)), ("binary_cross_entropy", math.log(2))])
def test_a_hard_batch_late_in_training_is_no_collapse(loss, limit):
    run = SimpleNamespace(
        task=Classification(loss=loss), train_images=shapes(8, 4), trouble=Trouble(usual_loss=0.01, steps=100)
    )
    watch = WatchLoss(Guard(explosion=5.0, after=50))
    watch.on_start(run)
    run.last = StepResult(loss=limit - 0.01)
    watch.after_step(run, 100)
    run.last = StepResult(loss=limit + 0.01)
    with pytest.raises(Diverged, match="the loss of step 101 is"):
        watch.after_step(run, 101)


def test_a_run_that_keeps_collapsing_is_given_up(guarded, nano_data):
    spoil = Spoil(2, above=0.0)
    with pytest.raises(TrainingError, match=r"loss of step 2 is nan.*gave up after going back 3 times"):
        fit(guarded, data=nano_data, callbacks=[spoil])
    assert [step for step, _ in spoil.rates] == [0, 1, 2] * 4


def test_a_run_that_gets_no_better_ends_early_and_stays_ended(plain_config, nano_data):
    config = replace(plain_config, epochs=30, lr=Constant(value=0.0), early_stopping=EarlyStopping(patience=3))
    result = fit(config, data=nano_data)
    assert result.steps == 4 * 6
    assert fit(config, data=nano_data, resume=True).steps == result.steps


def test_an_evaluation_that_is_not_a_number_is_no_best_one(plain_config, nano_data, read_log):
    class SpoilFirst(Callback):
        def after_step(self, run, step):
            if step == 5:
                self.kept = run.model.head.linear.bias.data.clone()
                run.model.head.linear.bias.data[0] = float("nan")

        def on_epoch(self, run, epoch):
            if epoch == 0:
                run.model.head.linear.bias.data.copy_(self.kept)

    config = replace(plain_config, epochs=4, early_stopping=EarlyStopping(patience=2, metric="loss"))
    assert fit(config, data=nano_data, callbacks=[SpoilFirst()]).steps == 4 * 6
    found = [line["loss"] for line in read_log(config.out) if line["event"] == "epoch"]
    assert found[0] is None and found[1:] == sorted(found[1:], reverse=True)
    assert "NaN" not in (config.out / "metrics.jsonl").read_text()


def test_early_stopping_without_evaluations_is_refused(plain_config):
    with pytest.raises(ConfigError, match="early_stopping counts evaluations, and evaluate_every=0 leaves none"):
        replace(plain_config, evaluate_every=0, early_stopping=EarlyStopping(patience=3))


def test_while_a_technique_is_on_its_way_no_evaluation_counts(nano_config, nano_data):
    until_epoch_4 = Scheduled(what="norm_progress", schedule=Linear(start=1.0, end=0.0, until=0.4))
    config = replace(nano_config, epochs=10, schedules=(until_epoch_4,), finish=(), ema=None)
    config = replace(config, optimizer=SGD(lr=0.0), early_stopping=EarlyStopping(patience=2, metric="loss"))
    assert fit(config, data=nano_data).steps >= 6 * 6


@pytest.mark.parametrize("config", [Guard(tries=2), EarlyStopping(patience=4, metric="loss")], ids=str)
def test_what_watches_a_run_survives_json(config):
    assert from_dict(to_dict(config), type(config)) == config


@pytest.mark.parametrize(
    "make",
    [
        lambda: Guard(tries=0),
        lambda: Guard(factor=1.0),
        lambda: Guard(explosion=1.0),
        lambda: EarlyStopping(patience=0),
    ],
)
def test_an_impossible_watch_is_refused(make):
    with pytest.raises(ConfigError, match="must be"):
        make()
