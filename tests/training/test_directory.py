"""A run's directory: one process at a time, and what an interrupted write left in it."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from leanformer.checkpoints.store import CheckpointStore
from leanformer.data import open_data
from leanformer.data.synthetic import write_folder
from leanformer.errors import CheckpointError, ConfigError, TrainingError
from leanformer.training import fit
from leanformer.training.callbacks import Callback, Logger, _lines_up_to
from leanformer.training.directory import occupied

HOLD = """
import sys, time
from pathlib import Path
from leanformer.training.directory import occupied
with occupied(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no locks")
def test_a_directory_in_which_another_process_trains_is_refused_until_that_one_ends(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="run is in use by another process"), occupied(tmp_path / "run"):
            pass
    finally:
        other.kill()
        other.communicate()
    with occupied(tmp_path / "run"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no locks")
def test_a_second_run_in_the_same_directory_leaves_the_first_alone(plain_config, nano_data, read_log):
    class Intrude(Callback):
        def on_epoch(self, run, epoch):
            with pytest.raises(ConfigError, match="in use by another process"):
                fit(plain_config, resume=True, data=nano_data)

    fit(plain_config, data=nano_data, callbacks=[Intrude()])
    assert [line["epoch"] for line in read_log(plain_config.out) if line["event"] == "epoch"] == [1, 2, 3]


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no locks")
def test_what_interrupted_writes_left_is_removed(tmp_path):
    left = [".config.json.0123abcd.tmp", ".model.safetensors.0123abcd.tmp", ".model-2.safetensors.0123abcd.tmp"]
    mine = [".notes.0123abcd.tmp", "model.safetensors", ".config.json.tmp"]
    for name in (*left, *mine):
        (tmp_path / name).write_text("x")
    with occupied(tmp_path):
        assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(mine)


def lose(path):
    path.unlink()


def empty(path):
    path.write_text("")


def replace_by_another(path):
    path.write_text("{}")


@pytest.mark.parametrize("damage", [lose, empty, replace_by_another])
@pytest.mark.parametrize("finished", [False, True], ids=["unfinished", "finished"])
def test_a_lost_config_is_written_anew_if_the_training_states_say_the_same(
    damage, finished, plain_config, nano_data, caplog
):
    short = replace(plain_config, epochs=1)
    fit(short, data=nano_data)
    path = short.out / "config.json"
    before, result = path.read_text(), (short.out / "model.safetensors").read_bytes()
    damage(path)
    if not finished:
        (short.out / "model.json").unlink()
        (short.out / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"already holds a run; go on with it by --resume"):
        fit(short, data=nano_data)
    with pytest.raises(ConfigError, match="epochs: 1 -> 3"):
        fit(plain_config, data=nano_data, resume=True)
    fit(short, data=nano_data, resume=True)
    assert "config.json is missing or damaged" in caplog.text
    assert path.read_text() == before
    assert (short.out / "model.safetensors").read_bytes() == result


def test_states_that_do_not_say_of_which_run_they_are_need_its_config(plain_config, nano_data):
    short = replace(plain_config, epochs=1)
    fit(short, data=nano_data)
    store = CheckpointStore(short.out / "checkpoints")
    step, tensors, meta = store.load_latest()
    store.save(step, tensors, {name: value for name, value in meta.items() if name != "config"})
    for path in store.directory.glob("step_*"):
        if path.name != f"step_{step:08d}.safetensors":
            path.unlink()
    (short.out / "config.json").rename(short.out.with_name("config.json"))
    with pytest.raises(CheckpointError, match=r"no file .*config\.json; start the same command with another"):
        fit(short, data=nano_data, resume=True)
    fit(replace(short, out=short.out.with_name("other")), data=nano_data)
    short.out.with_name("other").joinpath("config.json").rename(short.out / "config.json")
    assert fit(short, data=nano_data, resume=True).steps == 6


@pytest.mark.parametrize("out", ["run", "runs/first"])
def test_a_run_inside_its_data_is_no_class_of_it(out, plain_config, tmp_path):
    root = write_folder(tmp_path / "images", num_classes=2, per_class=5, size=16) / "train"
    config = replace(plain_config, data=str(root), out=root / out, epochs=1, batch_size=4)
    first = fit(config)
    (config.out / "model.json").unlink()
    assert fit(config, resume=True).metrics == first.metrics
    fit(replace(config, out=config.out.with_name("another")))
    assert len(open_data(root, "train").classes) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own")
def test_a_log_that_cannot_be_written_is_named_before_anything_is_written(plain_config, nano_data):
    log = plain_config.out / "metrics.jsonl"
    log.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"run.metrics\.jsonl is a folder, where the log .* or choose another"):
        fit(plain_config, data=nano_data)
    log.rmdir()
    log.symlink_to(log)
    with pytest.raises(ConfigError, match=r"run.metrics\.jsonl cannot be read: .*; remove it, or choose another --out"):
        fit(plain_config, data=nano_data)
    assert [entry.name for entry in plain_config.out.iterdir()] == ["metrics.jsonl"]


def test_a_log_that_cannot_be_opened_is_an_error_with_a_way_out(plain_config):
    run = SimpleNamespace(out=plain_config.out, step=0, epoch=0)
    (run.out / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"metrics\.jsonl cannot be opened: Is a directory; mend that and resume"):
        Logger().on_start(run)


def test_a_name_that_safetensors_could_not_open_is_refused_before_training(plain_config, nano_data):
    out = plain_config.out.with_name("b\udcff")  # the byte 0xff, as Python reads it from a command line
    with pytest.raises(ConfigError, match=r"b\\udcff'\) is no text in UTF-8"):
        fit(replace(plain_config, out=out), data=nano_data)
    assert not plain_config.out.parent.joinpath("b\udcff").exists()
    words = replace(plain_config, out=plain_config.out.with_name("läufe 日本\n'1'"), epochs=1)
    assert fit(words, data=nano_data).steps == fit(words, data=nano_data, resume=True).steps


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_directory_that_vanishes_while_it_is_trained_in_is_named_and_not_made_again(plain_config, nano_data, epoch):
    class Vanish(Callback):
        def on_epoch(self, run, number):
            if number == epoch:
                run.out.rename(run.out.with_name("moved"))

    with pytest.raises(TrainingError, match="run was removed, moved or unmounted while the run trained there"):
        fit(plain_config, data=nano_data, callbacks=[Vanish()])
    assert not plain_config.out.exists()
    plain_config.out.with_name("moved").rename(plain_config.out)
    assert fit(plain_config, data=nano_data, resume=True).steps == 18


def test_a_config_that_is_none_is_named(plain_config, nano_data):
    plain_config.out.mkdir()
    (plain_config.out / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json: not the config of a run"):
        fit(plain_config, resume=True, data=nano_data)


def test_damaged_lines_of_the_log_are_dropped():
    good = '{"event": "epoch", "step": 5, "epoch": 1}'
    text = f'5\n{{}}\n\ufffd\n{good}\n{{"event": "epoch", "step": 9, "epoch": 2}}\n{{"eve'
    assert _lines_up_to(text, 5, 1) == [good]
    assert _lines_up_to(text, 5, 0) == [], "the evaluation after step 5 is done again"


@pytest.mark.parametrize("change", [{"precision": "fp8"}, {"device": "tpu"}, {"seed": 2**63}])
def test_values_beyond_the_choices_are_refused(change, plain_config):
    with pytest.raises(ConfigError, match=f"{next(iter(change))} must be .*, got"):
        replace(plain_config, **change)
