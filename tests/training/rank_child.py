"""Trains the configs of a file one after the other, as one of several processes, which may be disturbed on the way."""

import copy
import json
import os
import signal
import sys

import torch
from torch import nn

from leanformer.config import from_dict
from leanformer.data.synthetic import shapes
from leanformer.errors import DataError
from leanformer.layers.norm import TokenBatchNorm
from leanformer.training import Interrupted, TrainConfig, fit
from leanformer.training.batch_norms import synchronized
from leanformer.training.callbacks import Callback
from leanformer.training.distributed import join_ranks


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


def check_norms(ranks):
    """Synchronized, each rank's share of a batch is normalized as in one process: results, gradients, statistics."""
    shapes = {nn.BatchNorm1d(5): (6, 5), TokenBatchNorm(5): (6, 7, 5), nn.BatchNorm2d(5, momentum=None): (6, 5, 3, 2)}
    for norm, shape in shapes.items():
        torch.manual_seed(0)
        nn.init.normal_(norm.weight)
        images, weights = 3 + 2 * torch.randn(shape), torch.randn(shape)
        alone = copy.deepcopy(norm)
        mine, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
        rows = slice(ranks.rank, None, ranks.world)
        with synchronized(norm, ranks):
            for _ in range(2):
                ours, whole = norm(mine[rows]), alone(theirs)
        torch.testing.assert_close(ours, whole[rows], rtol=1e-5, atol=1e-5)
        (ours * weights[rows]).sum().backward()
        (whole * weights).sum().backward()
        torch.testing.assert_close(mine.grad[rows], theirs.grad[rows], rtol=1e-4, atol=1e-5)
        grads = [parameter.grad for parameter in norm.parameters()]
        ranks.average(grads)
        sums = [grad * ranks.world for grad in grads]
        torch.testing.assert_close(sums, [p.grad for p in alone.parameters()], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.state_dict(), alone.state_dict())
        assert "forward" not in vars(norm)


def main():
    data = shapes(96, 4, 16, seed=0), shapes(40, 4, 16, seed=1)
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    try:
        with join_ranks() as ranks:
            check_norms(ranks)
            for job in jobs:
                config = from_dict(job["config"], TrainConfig)
                fit(config, data=data, resume=job["resume"], callbacks=[Disturb(job["what"]), Writes()])
    except Interrupted as stopped:
        sys.stdout.write(f"{stopped}\n")
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
