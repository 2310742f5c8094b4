"""What becomes of the processes that read images when the one that trains is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leanformer.data.synthetic import write_folder

READING = """
import multiprocessing, sys, time
from leanformer.data import TrainBatches, open_data
from leanformer.models import Preprocess

if __name__ == "__main__":
    batches = TrainBatches(open_data(sys.argv[1], "train"), Preprocess(image_size=(8, 8)), None, 4, 0, workers=2)
    next(batches.batches(0))
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""

LOSING_A_WORKER = """
import multiprocessing, os, signal, sys
from leanformer.data import TrainBatches, open_data
from leanformer.errors import DataError
from leanformer.models import Preprocess

if __name__ == "__main__":
    batches = TrainBatches(open_data(sys.argv[1], "train"), Preprocess(image_size=(8, 8)), None, 4, 0, workers=2)
    try:
        for epoch in range(1000):
            for batch in batches.batches(epoch):
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid, signal.SIGKILL)
    except DataError as error:
        print(error)
"""

LOSING_AN_IDLE_WORKER = """
import multiprocessing, sys
from leanformer.data import TrainBatches, open_data
from leanformer.errors import DataError
from leanformer.models import Preprocess

if __name__ == "__main__":
    batches = TrainBatches(open_data(sys.argv[1], "train"), Preprocess(image_size=(8, 8)), None, 4, 0, workers=2)
    list(batches.batches(0))
    worker = multiprocessing.active_children()[0]
    worker.kill()
    worker.join()
    try:
        list(batches.batches(1))
    except DataError as error:
        print(error)
"""

LEAVING_WORKERS = """
import multiprocessing, os, signal, sys
from leanformer.data import TrainBatches, open_data
from leanformer.models import Preprocess

if __name__ == "__main__":
    batches = TrainBatches(open_data(sys.argv[1], "train"), Preprocess(image_size=(8, 8)), None, 4, 0, workers=2)
    reading = batches.batches(0)
    next(reading)
    os.spawnlp(os.P_WAIT, "kill", "kill", "-TERM", *(str(worker.pid) for worker in multiprocessing.active_children()))
    print(len(list(reading)))
    raise ValueError("of the program's own")
"""


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="who sends SIGTERM is not known")
def test_workers_mind_no_sigterm_but_that_of_a_process_that_exits_with_them_left(tmp_path):
    write_folder(tmp_path / "images", size=12)
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING_WORKERS)
    done = subprocess.run([sys.executable, script, tmp_path / "images"], capture_output=True, text=True, timeout=60)
    assert int(done.stdout) > 1, done.stderr
    assert done.stderr.rstrip().endswith("ValueError: of the program's own")


def test_a_worker_that_is_killed_between_two_epochs_is_an_error_with_its_reason(tmp_path):
    write_folder(tmp_path / "images", size=12)
    script = tmp_path / "losing.py"
    script.write_text(LOSING_AN_IDLE_WORKER)
    done = subprocess.run([sys.executable, script, tmp_path / "images"], capture_output=True, text=True, timeout=60)
    assert "one of 2 processes that read images was killed from outside" in done.stdout, done.stderr
    assert done.returncode == 0


def test_a_worker_that_is_killed_from_outside_is_an_error_with_its_reason(tmp_path):
    write_folder(tmp_path / "images", size=12)
    script = tmp_path / "losing.py"
    script.write_text(LOSING_A_WORKER)
    done = subprocess.run([sys.executable, script, tmp_path / "images"], capture_output=True, text=True, timeout=120)
    assert "one of 2 processes that read images was killed from outside" in done.stdout, done.stderr
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux for the state of processes")
def test_workers_end_when_the_process_that_trains_is_killed(tmp_path):
    write_folder(tmp_path / "images", size=12)
    script = tmp_path / "reading.py"
    script.write_text(READING)
    with subprocess.Popen([sys.executable, script, tmp_path / "images"], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        workers = [int(pid) for pid in reader.stdout.readline().split()]
        assert len(workers) == 2 and all(map(_lives, workers))
        reader.kill()
    deadline = time.monotonic() + 30
    while any(map(_lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in workers if _lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
