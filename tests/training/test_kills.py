"""Twenty kills at random moments, of runs with everything that could remember wrongly, change no bit of the result."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from leanformer.config import to_dict
from leanformer.data.mixing import Mixing
from leanformer.data.synthetic import write_folder
from leanformer.training import Guard, fit

pytest.importorskip("fcntl", reason="forks and signals are those of POSIX systems")

CALLS = {None: 300_000, "save_checkpoint": 20_000, "_evaluate": 40_000, "train_step": 40_000, "_save": 10_000}
"""About how many calls a few epochs make within these functions, and at all."""


@pytest.fixture
def doomed(tmp_path):
    """Resumes a run in a process that may be killed; gives its exit status, and where it ended itself."""
    command = [sys.executable, str(Path(__file__).with_name("doomed_runs.py"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):

        def run(config, kill):
            order = {"config": to_dict(config), "kill": kill, "where": str(tmp_path / "where")}
            print(json.dumps(order), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.fixture
def config(nano_config, tmp_path):
    """Progressive norms, an average, Mixup and CutMix, accumulation, stochastic depth, a guard, and image files; one of
    them is damaged."""
    folder = write_folder(tmp_path / "images", num_classes=3, per_class=32, num_val=8, size=20, num_unreadable=1)
    return replace(nano_config, data=str(folder), epochs=4, accumulate=2, mixing=Mixing(), guard=Guard(), log_every=1)


def draw_kills(draw):
    """Kills at any moment, and within what runs for a short time alone."""
    while True:
        for within, calls in CALLS.items():
            group = draw.random() < 0.5
            yield {"calls": draw.randint(1, calls), "within": within, "group": group}
            if draw.random() < 0.5:
                yield {"seconds": draw.uniform(0.0, 0.8), "group": group}


def disturb(doomed, config, straight, num_kills, read_log):
    """Kill runs of `config` so often, each going on where the one before died, and compare those that end. Gives where
    they were killed."""
    draw, ended, places = random.Random(0), 0, []
    for kill in draw_kills(draw):
        started = replace(config, out=config.out / str(ended), checkpoint_every_steps=draw.randint(1, 3))
        status, place = doomed(started, kill if len(places) < num_kills else {})
        if status == -signal.SIGKILL:
            places.append(place)
            continue
        assert status == 0, (config.out.parent / "errors").read_text()
        assert (started.out / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
        assert read_log(started.out) == read_log(straight)
        ended += 1
        if len(places) == num_kills:
            return places


def undisturbed(config, read_log):
    straight = replace(config, out=config.out.with_name("straight"), workers=0)
    steps = fit(straight).steps
    seen = [line["step"] for line in read_log(straight.out) if line["event"] == "step"]
    assert seen == list(range(1, steps + 1))
    return straight.out


def test_three_kills_change_nothing(doomed, config, read_log):
    disturb(doomed, config, undisturbed(config, read_log), 3, read_log)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_kills_change_nothing(doomed, config, read_log, workers):
    places = disturb(doomed, replace(config, workers=workers), undisturbed(config, read_log), 20, read_log)
    for part in ("save_checkpoint", "_evaluate", "train_step"):
        assert any(part in place for place in places), places
