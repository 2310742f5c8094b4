"""A tracker gets what `metrics.jsonl` says, a resumed run goes on in it, and its failure stops nothing."""

import json
import logging
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from leanformer.errors import MissingExtra
from leanformer.training import ModelSpec, TrainConfig, fit
from leanformer.training.callbacks import Callback
from leanformer.training.interrupt import Interrupted
from leanformer.training.tracking import Tracker

NAMED = ModelSpec(name="slab_swin_nano")


class Recorder:
    """A tracker's library that remembers how it was called."""

    def __init__(self, fails=False):
        self.fails = fails
        self.started, self.sent, self.ended = [], [], 0

    def start(self, **arguments):
        self.started.append(arguments)
        return SimpleNamespace(log=self.take, finish=self.end, info=SimpleNamespace(run_id="abc"))

    def take(self, figures, step):
        if self.fails:
            raise ConnectionError("no route to host")
        self.sent.append((step, figures))

    def end(self):
        self.ended += 1


def fake(monkeypatch, name, fails=False):
    recorder, module = Recorder(fails), ModuleType(name)
    functions = {
        "init": recorder.start,
        "start_run": recorder.start,
        "log_metrics": recorder.take,
        "end_run": recorder.end,
        "log_params": recorder.started.append,
        "set_tracking_uri": recorder.started.append,
    }
    for function, does in functions.items():
        setattr(module, function, does)
    monkeypatch.setitem(sys.modules, name, module)
    return recorder


def records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_every_line_of_the_log_is_sent_once(plain_config, nano_data, monkeypatch, name):
    recorder = fake(monkeypatch, name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fit(plain_config, data=nano_data, callbacks=[Tracker(name)])
    lines = records(plain_config.out)
    assert [step for step, _ in recorder.sent] == [line["step"] for line in lines]
    assert recorder.sent[0][1]["step/loss"] == lines[0]["loss"]
    assert recorder.sent[-1][1]["final/top1"] == lines[-1]["top1"]
    assert recorder.ended == 1


class StopAfter(Callback):
    """Ends the run as Ctrl-C does."""

    def __init__(self, steps):
        self.steps = steps

    def after_step(self, run, step):
        if step + 1 == self.steps:
            raise Interrupted("stopped")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_resumed_run_goes_on_in_the_same_run_of_the_tracker(plain_config, nano_data, monkeypatch, name):
    recorder = fake(monkeypatch, name)
    with pytest.raises(Interrupted):
        fit(plain_config, data=nano_data, callbacks=[Tracker(name), StopAfter(10)])
    first = len(recorder.sent)
    fit(plain_config, data=nano_data, resume=True, callbacks=[Tracker(name)])
    given = [each.get("id") or each.get("run_id") for each in recorder.started if isinstance(each, dict)]
    identity = json.loads((plain_config.out / "tracking.json").read_text())[name]
    assert given[-1] == identity
    steps = [step for step, _ in recorder.sent[first:]]
    assert steps and min(steps) > 6, "nothing from before the checkpoint is sent again"


def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(plain_config, nano_data, monkeypatch, caplog):
    recorder = fake(monkeypatch, "wandb", fails=True)
    with caplog.at_level(logging.WARNING):
        result = fit(plain_config, data=nano_data, callbacks=[Tracker("wandb")])
    assert result.steps == 18 and recorder.sent == []
    warnings = [record.getMessage() for record in caplog.records if "wandb" in record.getMessage()]
    assert len(warnings) == 1 and "ConnectionError: no route to host" in warnings[0]


def test_after_going_back_the_tracker_goes_on_with_the_lines_that_are_new(tmp_path, monkeypatch):
    recorder = fake(monkeypatch, "wandb")
    log, run = tmp_path / "metrics.jsonl", SimpleNamespace(out=tmp_path, config=TrainConfig(model=NAMED, out=tmp_path))
    log.write_text("")
    tracker = Tracker("wandb")
    tracker.on_start(run)
    line = '{"event": "step", "step": %d, "loss": 1.5}\n'
    log.write_text(line % 3 + line % 6)
    tracker.on_epoch(run, 0)
    log.write_text(line % 3)
    tracker.on_rollback(run)
    log.write_text(line % 3 + line % 5)
    tracker.on_epoch(run, 0)
    assert [step for step, _ in recorder.sent] == [3, 6, 5]


def test_a_tracker_that_is_not_installed_is_refused_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'leanformer\[track\]'"):
        Tracker("mlflow")


@pytest.mark.extras
def test_tensorboard_shows_the_figures_of_the_log(plain_config, nano_data):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(plain_config, epochs=2)
    fit(config, data=nano_data, callbacks=[Tracker("tensorboard")])
    shown = EventAccumulator(str(config.out / "tensorboard"))
    shown.Reload()
    lines = [line for line in records(config.out) if line["event"] == "step"]
    found = shown.Scalars("step/loss")
    assert [event.step for event in found] == [line["step"] for line in lines]
    assert [event.value for event in found] == pytest.approx([line["loss"] for line in lines], rel=1e-6)
    assert shown.Scalars("epoch/top1")
