"""Ctrl-C, a full disk, a reader that left: each in a process of its own, and nothing is lost."""

from __future__ import annotations

import re
import shlex

import pytest

from leanformer.checkpoints.files import sha256
from leanformer.cli import main
from leanformer.data.synthetic import write_folder

pytest.importorskip("resource", reason="limits and signals are those of POSIX systems")

# What happens to the process when its first checkpoint is complete.
AFTER_THE_FIRST_CHECKPOINT = """
import os, resource, signal, sys
from leanformer.cli import main

happened = []

def watch(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("latest.json") and not happened:
        happened.append(HAPPENS)

sys.addaudithook(watch)
sys.exit(main(sys.argv[1:]))
"""
CTRL_C = AFTER_THE_FIRST_CHECKPOINT.replace("HAPPENS", "os.kill(os.getpid(), signal.SIGINT)")
DISK_FULL = AFTER_THE_FIRST_CHECKPOINT.replace(  # no file may grow beyond 20 kB from then on
    "HAPPENS", "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))"
)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Eight images to train on, two to evaluate on."""
    return write_folder(tmp_path_factory.mktemp("few") / "photos", num_classes=2, per_class=4, num_val=1)


@pytest.fixture(scope="module")
def command(few):
    """Trains for eight steps, a checkpoint after each."""
    settings = ["--data", few, "--image-size", 16, "--epochs", 4, "--batch-size", 4, "--checkpoint-every-steps", 1]
    return ["train", "slab_swin_nano", *map(str, settings), "--out"]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """The hash of the weights that the command ends with."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main([*command, str(out)]) == 0
    return sha256(out / "model.safetensors")


def test_ctrl_c_saves_the_run_and_says_how_to_go_on(run, spawn, command, undisturbed, tmp_path):
    out = tmp_path / "run with a space"
    process = spawn(*command, out, script=CTRL_C)
    _, logged = process.communicate(timeout=60)
    assert process.returncode == 130, logged
    assert "Traceback" not in logged
    told = re.match(
        rf"leanformer: stopped after step 1 of 8, saved in {out}; go on with: (.*)", logged.splitlines()[-1]
    )
    assert told, logged
    program, *arguments = shlex.split(told[1])
    assert [program, *arguments] == ["leanformer", *command, str(out), "--resume"]

    resumed = run(*arguments)
    assert resumed.status == 0
    assert f"resumed {out} after step 1 of 8" in resumed.err
    assert sha256(out / "model.safetensors") == undisturbed


def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint(run, spawn, command, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = spawn(*command, out, script=DISK_FULL)
    _, logged = process.communicate(timeout=60)
    assert process.returncode == 2, logged
    assert "Traceback" not in logged
    assert re.search(r"leanformer: .*step_00000002\.safetensors: could not be written \(File too large\); ", logged)
    assert "what was there before is untouched" in logged
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["latest.json", "step_00000001.safetensors"]

    resumed = run(*command, out, "--resume")
    assert resumed.status == 0
    assert f"resumed {out} after step 1 of 8" in resumed.err
    assert sha256(out / "model.safetensors") == undisturbed


def test_a_finished_run_is_not_trained_again(run, command, tmp_path):
    first = run(*command, tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    again = run(*command, tmp_path / "run", "--resume")
    assert (first.status, again.status) == (0, 0)
    assert "is finished; there is nothing to resume" in again.err
    assert "trained 8 steps" in again.out
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
    assert "the page of the run" not in again.out


def test_a_finished_run_whose_page_was_never_written_says_how_to_get_it(run, command, tmp_path):
    assert run(*command, tmp_path / "run").status == 0
    (tmp_path / "run" / "report.html").unlink()
    again = run(*command, tmp_path / "run", "--resume")
    assert f"the page of the run is not there: leanformer report {tmp_path / 'run'} writes it" in again.out


@pytest.mark.parametrize("arguments", [["--help"], ["list", "swin_n*"]])
def test_a_reader_that_leaves_ends_the_output_quietly(spawn, arguments):
    process = spawn(*arguments)
    process.stdout.close()
    logged = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert logged == ""


def test_the_program_is_installed_and_knows_its_mistakes(spawn, tmp_path):
    process = spawn("predict", tmp_path / "nothing", "cat.jpg")
    printed, logged = process.communicate(timeout=60)
    assert (process.returncode, printed) == (2, "")
    assert logged == f"leanformer: no folder {tmp_path / 'nothing'}\n"
