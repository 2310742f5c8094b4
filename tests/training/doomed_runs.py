"""Training runs that are killed. One warm interpreter forks a process for each, so that a kill costs no imports.

It reads a line of JSON for each run, `{"config": ..., "kill": ...}`, and answers with a line: the exit status, negative
if a signal ended it, and where. A kill is one of

- `{"calls": N, "within": NAME}`: SIGKILL by itself at the N-th call of any function while NAME runs (null: at all),
- `{"seconds": X}`: SIGKILL from outside, X seconds after training has begun, wherever that is,
- `{}`: none.

With `"group": true` the workers die with it, as when a machine fails; otherwise they are left behind.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import timm.data.mixup  # noqa: F401 - a run imports it late
import torch

from leanformer.config import from_dict
from leanformer.training import TrainConfig, fit
from leanformer.training.callbacks import Callback


class Begin(Callback):
    """Tells the process outside that training begins."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_start(self, run: Any) -> None:
        os.write(self.pipe, b"begun")


class Suicide:
    """A profiling function that counts the calls within a function, and kills at one of them."""

    def __init__(self, calls: int, within: str | None, group: bool, where: Path) -> None:
        self.left, self.within, self.group, self.where = calls, within, group, where
        self.depth = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "return") and frame.f_code.co_name == self.within:
            self.depth += 1 if event == "call" else -1
        if event in ("call", "c_call") and (self.within is None or self.depth):
            self.left -= 1
            if self.left == 0:
                self.where.write_text(" < ".join(_names(frame)))
                (os.killpg if self.group else os.kill)(os.getpid(), signal.SIGKILL)


def _names(frame: FrameType | None) -> list[str]:
    names = []
    while frame is not None and frame.f_code.co_name != "fit":
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def run(config: TrainConfig, kill: dict[str, Any], where: Path) -> tuple[int, str]:
    """Fork a process that resumes `config`; its exit status, and where it was if it killed itself."""
    where.unlink(missing_ok=True)
    begun, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(begun)
        os._exit(_train(config, kill, tell, where))
    os.close(tell)
    if "seconds" in kill and os.read(begun, 9):
        select.select([begun], [], [], kill["seconds"])  # readable as soon as the process has ended
        (os.killpg if kill.get("group") else os.kill)(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(begun)
    return os.waitstatus_to_exitcode(status), where.read_text() if where.exists() else "outside"


def _train(config: TrainConfig, kill: dict[str, Any], tell: int, where: Path) -> int:
    os.setsid()
    try:
        if "calls" in kill:
            sys.setprofile(Suicide(kill["calls"], kill["within"], kill.get("group", False), where))
        fit(config, resume=True, callbacks=[Begin(tell)])
    except BaseException:  # noqa: BLE001 - nothing may leave a forked process
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # imports what every run would
    torch.use_deterministic_algorithms(False)
    for line in sys.stdin:
        order = json.loads(line)
        config = from_dict(order["config"], TrainConfig)
        answer = run(config, order["kill"], Path(order["where"]))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
