"""Scheduled values reach the modules that ask for them, the averaged copy averages, and progress is readable."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from leanformer.errors import ConfigError
from leanformer.training import Linear, Scheduled, fit
from leanformer.training.callbacks import Callback, check_schedules, scheduled_modules, settle
from leanformer.training.progress import Progress


class Probe(nn.Module):
    """Takes whatever it is told to take."""

    def __init__(self, scheduled):
        super().__init__()
        self.scheduled = scheduled
        self.values = []

    def set_scheduled(self, value):
        self.values.append(value)


class EachStep(Callback):
    def __init__(self, look):
        self.look = look

    def after_step(self, run, step):
        self.look(run)


def test_modules_are_found_by_what_they_declare():
    model = nn.Sequential(Probe("a"), nn.Linear(2, 2), nn.Sequential(Probe("b"), Probe("a")))
    assert {what: len(modules) for what, modules in scheduled_modules(model).items()} == {"a": 2, "b": 1}


def test_a_trained_model_gets_the_values_at_which_its_schedules_end():
    probe = Probe("norm_progress")
    settle(
        nn.Sequential(probe), [Scheduled(what="norm_progress", schedule=Linear(start=1.0, end=0.25))], total=8, epochs=1
    )
    assert probe.values == [0.25]


def test_what_nothing_drives_is_named():
    with pytest.raises(ConfigError, match=r"2 modules of the model follow 'attention_share'.*Scheduled\(what="):
        check_schedules(nn.Sequential(Probe("attention_share"), Probe("attention_share")), [])


def test_a_weight_decay_schedule_multiplies_the_decay_of_the_groups_that_have_one(plain_config, nano_data):
    decay = Scheduled(what="weight_decay", schedule=Linear(start=1.0, end=0.0))
    seen = []
    look = EachStep(lambda run: seen.append([group["weight_decay"] for group in run.optimizer.param_groups]))
    fit(replace(plain_config, epochs=1, schedules=(decay,)), data=nano_data, callbacks=[look])
    expected = [[plain_config.optimizer.weight_decay * (1 - step / 6), 0.0] for step in range(6)]
    assert seen == [pytest.approx(values) for values in expected]


def test_the_averaged_copy_follows_its_formula(nano_config, nano_data):
    history, copies = [], []

    def look(run):
        history.append({name: value.clone() for name, value in run.model.state_dict().items()})
        copies.append({name: value.clone() for name, value in run.ema.state_dict().items()})

    fit(replace(nano_config, epochs=1), data=nano_data, callbacks=[EachStep(look)])
    expected = {name: value.double() for name, value in history[0].items()}
    for state in history[1:]:
        expected = {name: 0.8 * expected[name] + 0.2 * value.double() for name, value in state.items()}
    for name, value in copies[-1].items():
        if name.endswith(("num_batches_tracked", "progress")):
            assert torch.equal(value, history[-1][name]), name
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_averaged_copy_is_the_result(nano_config, nano_data):
    last = {}
    look = EachStep(lambda run: last.update({name: value.clone() for name, value in run.ema.named_parameters()}))
    result = fit(nano_config, data=nano_data, callbacks=[look])
    assert all(torch.equal(value, last[name]) for name, value in result.model.named_parameters())
    assert not any(module.training for module in result.model.modules())


def test_without_a_terminal_progress_is_plain_lines(plain_config, nano_data, caplog, monkeypatch):
    monkeypatch.setattr("leanformer.training.progress.SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO):
        fit(replace(plain_config, epochs=2), data=nano_data)
    lines = [record.getMessage() for record in caplog.records]
    steps = [line for line in lines if line.startswith("epoch 2/2  step 9/12  loss")]
    assert len(steps) == 1 and "images/s" in steps[0] and steps[0].endswith("left")
    assert any(line.startswith("epoch 2/2  train loss") and "* Acc@1" in line for line in lines)


def test_on_a_terminal_progress_is_a_bar_that_is_closed_at_the_end(plain_config, nano_data, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bars = []

    class Watch(Callback):
        def on_end(self, run):
            bars.append(run.step)

    progress = Progress()
    fit(replace(plain_config, epochs=1), data=nano_data, callbacks=[progress, Watch()])
    assert bars == [6]
    assert progress._bar.finished and not progress._bar.live.is_started


def test_every_callback_ends_when_the_run_fails(plain_config, nano_data):
    ended = []

    class Fails(Callback):
        def on_step(self, run, step):
            raise ZeroDivisionError

        def on_end(self, run):
            ended.append(run.step)

    with pytest.raises(ZeroDivisionError):
        fit(plain_config, data=nano_data, callbacks=[Fails()])
    assert ended == [0]
