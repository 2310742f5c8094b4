"""A run that is killed or stopped anywhere, and resumed, ends as the undisturbed run does, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from leanformer.checkpoints.store import CheckpointStore
from leanformer.config import to_dict
from leanformer.data.synthetic import shapes, write_folder
from leanformer.errors import CheckpointError, DataError
from leanformer.training import Interrupted, fit
from leanformer.training.callbacks import Callback, SetScheduled
from leanformer.training.config import Scheduled
from leanformer.training.schedules import Linear
from leanformer.training.state import Run

# Runs in a process of its own, which may die. "step N" kills it before optimizer step N, "save N" instead of its N-th
# checkpoint, when the lines that belong to it are already in the log. "wait N" says so at step N and then dawdles; with
# "slow N" it is the reading of images that dawdles, and "begin N" says so before there are workers.
CHILD = """
import json, os, signal, sys, time
from leanformer.config import from_dict
from leanformer.data import ImageFolder
from leanformer.data.synthetic import shapes
from leanformer.training import Interrupted, TrainConfig, fit
from leanformer.training.callbacks import Callback
from leanformer.training.state import Run

config = from_dict(json.loads(sys.argv[1]), TrainConfig)
what, number = sys.argv[2].split()

class Disturb(Callback):
    def on_start(self, run):
        if what == "begin":
            print("ready", flush=True)

    def on_step(self, run, step):
        if what == "step" and step == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        if what in ("wait", "slow") and step == int(number):
            print("ready", flush=True)
        if what == "wait" and step >= int(number):
            time.sleep(0.5)

if what == "save":
    save, left = Run.save_checkpoint, [int(number)]
    def save_or_die(run):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        save(run)
    Run.save_checkpoint = save_or_die

class Slow(ImageFolder):
    def image(self, index):
        time.sleep(0.2)
        return super().image(index)

if config.data == "garments":
    data = shapes(96, 4, 16, seed=0), shapes(40, 4, 16, seed=1)
else:
    data = Slow(config.data, "train"), Slow(config.data, "val")
if __name__ == "__main__":
    try:
        fit(config, data=data, callbacks=[Disturb()], resume_command="leanformer train nano --resume")
    except Interrupted as stopped:
        print(stopped, flush=True)
        sys.exit(stopped.exit_code)
"""


def start_child(config, disturbance, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    command = [sys.executable, str(script), json.dumps(to_dict(config)), disturbance]
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def weights(out):
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("disturbance", ["step 2", "step 11", "save 3"])
def test_a_killed_run_ends_as_an_undisturbed_one(disturbance, nano_config, nano_data, read_log, tmp_path):
    straight = replace(nano_config, out=tmp_path / "straight")
    fit(straight, data=nano_data)
    child = start_child(nano_config, disturbance, tmp_path)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, errors
    assert not (nano_config.out / "model.json").exists()
    fit(nano_config, data=nano_data, resume=True)
    assert weights(nano_config.out) == weights(straight.out)
    assert read_log(nano_config.out) == read_log(straight.out)


def test_a_state_of_another_version_is_refused_by_what_it_lacks(plain_config, nano_data):
    fit(replace(plain_config, epochs=1), data=nano_data)
    store = CheckpointStore(plain_config.out / "checkpoints")
    step, tensors, meta = store.load_latest()
    store.save(step, tensors, {name: value for name, value in meta.items() if name != "data"})
    (plain_config.out / "model.json").unlink()
    with pytest.raises(CheckpointError, match="lacks data: another version of leanformer wrote it"):
        fit(replace(plain_config, epochs=1), data=nano_data, resume=True)


@pytest.mark.parametrize("change", [{"num_images": 97}, {"num_classes": 3}], ids=str)
def test_a_run_is_not_resumed_on_other_images(change, nano_config, nano_data):
    with pytest.raises(Interrupted):
        fit(nano_config, data=nano_data, callbacks=[StopAt(3)])
    changed = shapes(**({"num_images": 96, "num_classes": 4, "size": 16, "seed": 0} | change)), nano_data[1]
    with pytest.raises(
        DataError, match=r"has changed since step 4: 96 images of 4 classes were there, now 9[67] of [34]"
    ):
        fit(nano_config, data=changed, resume=True)
    assert fit(nano_config, data=nano_data, resume=True).steps == 18


@pytest.mark.parametrize("side, name", [("train", "training"), ("val", "validation")])
def test_a_run_is_not_resumed_on_other_files(side, name, plain_config, tmp_path):
    root = write_folder(tmp_path / "images", num_classes=2, per_class=4, num_val=2, size=16)
    config = replace(plain_config, data=str(root), epochs=1, batch_size=4)
    with pytest.raises(Interrupted):
        fit(config, callbacks=[StopAt(1)])
    first, second = sorted(path for path in (root / side).iterdir())
    swap(first, second)
    with pytest.raises(DataError, match=rf"the {name} data of .*images has changed since step 2: its images"):
        fit(config, resume=True)
    swap(first, second)
    assert fit(config, resume=True).steps == 2


def swap(first, second):
    first.rename(first.with_name("third"))
    second.rename(first)
    first.with_name("third").rename(second)


def test_a_state_that_knows_no_files_is_gone_on_with(plain_config, tmp_path):
    root = write_folder(tmp_path / "images", num_classes=2, per_class=4, num_val=2, size=16)
    config = replace(plain_config, data=str(root), epochs=1, batch_size=4)
    with pytest.raises(Interrupted):
        fit(config, callbacks=[StopAt(1)])
    store = CheckpointStore(config.out / "checkpoints")
    step, tensors, meta = store.load_latest()
    store.save(step, tensors, {name: value for name, value in meta.items() if name != "fingerprints"})
    assert fit(config, resume=True).steps == 2


class StopAt(Callback):
    """Ctrl-C in the middle of a step."""

    def __init__(self, stop):
        self.stop = stop

    def on_step(self, run, step):
        if step == self.stop:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("step", [0, 4, 5, 11, 16])
def test_a_stopped_run_ends_as_an_undisturbed_one(step, nano_config, nano_data, read_log, tmp_path):
    straight = replace(nano_config, out=tmp_path / "straight")
    fit(straight, data=nano_data)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=rf"stopped after step {step + 1} of 18.*go on with: again --resume"):
        fit(nano_config, data=nano_data, callbacks=[StopAt(step)], resume_command="again --resume")
    assert signal.getsignal(signal.SIGINT) is before
    fit(nano_config, data=nano_data, resume=True)
    assert weights(nano_config.out) == weights(straight.out)
    assert read_log(nano_config.out) == read_log(straight.out)


class StopAfter(Callback):
    """Ctrl-C between steps: at the end of an epoch, what follows is an evaluation."""

    def __init__(self, step=None, epoch=None):
        self.step, self.epoch = step, epoch

    def after_step(self, run, step):
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)

    def on_epoch(self, run, epoch):
        if epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("moment, evaluations", [({"step": 5}, 0), ({"step": 17}, 2), ({"epoch": 2}, 3)], ids=str)
def test_a_run_stopped_in_an_evaluation_does_not_finish_it_first(
    nano_config, nano_data, read_log, tmp_path, moment, evaluations
):
    straight = replace(nano_config, out=tmp_path / "straight")
    fit(straight, data=nano_data)
    with pytest.raises(Interrupted, match=r"stopped after step (6|18) of 18"):
        fit(nano_config, data=nano_data, callbacks=[StopAfter(**moment)])
    assert [line["event"] for line in read_log(nano_config.out) if line["event"] != "step"] == ["epoch"] * evaluations
    fit(nano_config, data=nano_data, resume=True)
    assert weights(nano_config.out) == weights(straight.out)
    assert read_log(nano_config.out) == read_log(straight.out)


def killed(run):
    raise KeyboardInterrupt


def test_an_evaluation_that_is_done_again_is_logged_once(nano_config, nano_data, read_log, tmp_path, monkeypatch):
    straight = replace(nano_config, out=tmp_path / "straight")
    fit(straight, data=nano_data)
    with pytest.raises(Interrupted):
        fit(nano_config, data=nano_data, callbacks=[StopAt(5)])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save_checkpoint", killed)
        fit(nano_config, data=nano_data, resume=True)  # evaluates, and dies before that is saved
    fit(nano_config, data=nano_data, resume=True)
    assert read_log(nano_config.out) == read_log(straight.out)


def test_a_run_survives_being_stopped_after_every_step(nano_config, nano_data, read_log, tmp_path):
    straight = replace(nano_config, out=tmp_path / "straight")
    fit(straight, data=nano_data)
    for step in range(17):
        with pytest.raises(Interrupted):
            fit(nano_config, data=nano_data, resume=True, callbacks=[StopAt(step)])
    fit(nano_config, data=nano_data, resume=True)
    assert weights(nano_config.out) == weights(straight.out)
    assert read_log(nano_config.out) == read_log(straight.out)


def test_half_precision_resumes_with_its_loss_scale(nano_config, nano_data, tmp_path):
    half = replace(nano_config, precision="fp16")
    fit(replace(half, out=tmp_path / "straight"), data=nano_data)
    with pytest.raises(Interrupted):
        fit(half, data=nano_data, callbacks=[StopAt(8)])
    fit(half, data=nano_data, resume=True)
    assert weights(half.out) == weights(tmp_path / "straight")


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(nano_config, nano_data, read_log, tmp_path):
    straight = replace(nano_config, out=tmp_path / "straight")
    fit(straight, data=nano_data)
    with pytest.raises(Interrupted):
        fit(nano_config, data=nano_data, callbacks=[StopAt(9)])
    newest = nano_config.out / "checkpoints" / "step_00000010.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    fit(nano_config, data=nano_data, resume=True)
    assert weights(nano_config.out) == weights(straight.out)
    assert read_log(nano_config.out) == read_log(straight.out)


def test_resuming_where_nothing_was_saved_starts_from_the_first_step(nano_config, nano_data, caplog):
    result = fit(replace(nano_config, epochs=1), data=nano_data, resume=True)
    assert result.steps == 6
    assert "no checkpoint" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_after_the_step_and_says_how_to_go_on(number, nano_config, nano_data, tmp_path):
    child = start_child(nano_config, "wait 7", tmp_path)
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    output, errors = child.communicate(timeout=30)
    assert child.returncode == 130, errors
    assert "stopped after step 8 of 18" in output and "leanformer train nano --resume" in output
    assert "press Ctrl-C again" in errors
    assert fit(nano_config, data=nano_data, resume=True).steps == 18


def test_a_second_ctrl_c_ends_the_process_at_once(nano_config, tmp_path):
    child = start_child(nano_config, "wait 7", tmp_path)
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode not in (0, 130) and "KeyboardInterrupt" in errors
    assert not (nano_config.out / "model.json").exists()


@pytest.mark.parametrize(
    "number, moment, steps", [(signal.SIGINT, "begin 0", 1), (signal.SIGTERM, "slow 2", 4)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_that_reaches_the_workers_too_does_no_harm(plain_config, tmp_path, number, moment, steps):
    folder = write_folder(tmp_path / "images", num_classes=3, per_class=12, num_val=3, size=20)
    config = replace(plain_config, data=str(folder), batch_size=3, workers=1)
    child = start_child(config, moment, tmp_path)
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.2)  # by now the loop waits for a worker, which may not have begun
    os.killpg(child.pid, number)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert f"stopped after step {steps} of 36" in output
    assert "Traceback" not in errors


def test_scheduled_values_are_those_of_the_step_after_resuming_too(nano_config, nano_data):
    schedule = Linear(start=1.0, end=0.0, until=0.6)
    seen = {}

    class Watch(Callback):
        def after_step(self, run, step):
            seen[step] = {module.progress.item() for module in run.model.modules() if hasattr(module, "progress")}

    with pytest.raises(Interrupted):
        fit(nano_config, data=nano_data, callbacks=[StopAt(7), Watch()])
    fit(nano_config, data=nano_data, resume=True, callbacks=[Watch()])
    assert {step: sorted(values) for step, values in seen.items()} == {
        step: [pytest.approx(schedule(step, 18), abs=1e-7)] for step in range(18)
    }
    assert SetScheduled(Scheduled(what="norm_progress", schedule=schedule)).what == "norm_progress"
