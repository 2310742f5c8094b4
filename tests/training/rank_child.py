"""Trains the configs of a file one after the other, as one of several processes, which may be disturbed on the way."""

import json
import os
import signal
import sys

from leanformer.config import from_dict
from leanformer.data.synthetic import shapes
from leanformer.errors import DataError
from leanformer.training import Interrupted, TrainConfig, fit
from leanformer.training.callbacks import Callback


class Disturb(Callback):
    """Does `what` at a step on a rank, such as "kill 7 1", unless the processes have been started again since."""

    def __init__(self, what):
        self.what, _, where = what.partition(" ")
        self.where = tuple(map(int, where.split()))

    def on_step(self, run, step):
        if (step, run.ranks.rank) != self.where or run.ranks.restarts:
            return
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "stop":
            os.kill(os.getpid(), signal.SIGINT)
        if self.what == "fail":
            raise DataError(f"rank {run.ranks.rank} has no more images")
        if self.what == "break":
            raise ZeroDivisionError("a mistake in a callback")

    def after_step(self, run, step):
        assert len(set(run.ranks.gather(run.last.loss))) == 1


class Writes(Callback):
    first_rank_alone = True

    def on_start(self, run):
        with (run.out / "starts").open("a") as file:
            file.write(f"{run.ranks.rank}\n")


def main():
    data = shapes(96, 4, 16, seed=0), shapes(40, 4, 16, seed=1)
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    for job in jobs:
        config = from_dict(job["config"], TrainConfig)
        try:
            fit(config, data=data, resume=job["resume"], callbacks=[Disturb(job["what"]), Writes()])
        except Interrupted as stopped:
            sys.stdout.write(f"{stopped}\n")
            sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
