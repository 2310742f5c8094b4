"""Train on a Slurm cluster from Python, by submitit: one task for each GPU, back in the queue when it is preempted.

    pip install 'leanformer[launch]'
    python examples/submitit_train.py --nodes 2 --gpus 8 --partition gpu -- \
        swiftformer_l1_in1k --data /data/imagenet --out runs/l1 --checkpoint-every-steps 500

What follows `--` is what follows `leanformer train`. `--cluster local` runs the same on this machine.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leanformer.errors import require


class Training:
    """One `leanformer train`, which submitit sends to the nodes, calls there in each task, and sends again."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = [*arguments]

    def __call__(self) -> int:
        """Train, from the newest checkpoint if there is one; the exit status."""
        from leanformer.cli import main

        submitit = require("submitit", extra="launch")
        if submitit.JobEnvironment().num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        status = main(["train", *self.arguments, "--resume"])
        if status:
            raise RuntimeError(f"leanformer train ended with status {status}; its log says why")
        return status

    def checkpoint(self) -> Any:
        """What is to be submitted when the time is over or the nodes are taken away: the same, which goes on."""
        return require("submitit", extra="launch").helpers.DelayedSubmission(self)


def launch(options: argparse.Namespace) -> Any:
    """Submit the job."""
    submitit = require("submitit", extra="launch")
    executor = submitit.AutoExecutor(folder=options.logs, cluster=options.cluster, slurm_max_num_timeout=1000)
    executor.update_parameters(
        name="leanformer",
        nodes=options.nodes,
        tasks_per_node=options.tasks or max(options.gpus, 1),
        gpus_per_node=options.gpus,
        cpus_per_task=options.cpus,
        timeout_min=options.minutes,
        slurm_partition=options.partition,
        slurm_signal_delay_s=120,
    )
    return executor.submit(Training(options.arguments))


def main() -> None:
    """Read the options, submit, and say what was submitted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="of each node; 0 trains on the CPU")
    parser.add_argument("--tasks", type=int, help="processes on each node, one for each GPU by default")
    parser.add_argument("--cpus", type=int, default=8, help="of each task")
    parser.add_argument("--minutes", type=int, default=12 * 60)
    parser.add_argument("--partition")
    parser.add_argument("--cluster", choices=["slurm", "local", "debug"], default="slurm")
    parser.add_argument("--logs", type=Path, default=Path("runs/logs"))
    parser.add_argument("--wait", action="store_true", help="until the job has ended")
    parser.add_argument("arguments", nargs="+", metavar="...", help="of leanformer train")
    options = parser.parse_args()
    job = launch(options)
    print(f"submitted job {job.job_id}; its logs are in {job.paths.folder}")
    if options.wait:
        print(f"ended with {job.results()}")


if __name__ == "__main__":
    main()
