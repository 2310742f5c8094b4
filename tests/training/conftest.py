"""A run that takes a second: a nano model with progressive norms on coloured shapes."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from leanformer.config import to_dict
from leanformer.data.synthetic import shapes
from leanformer.layers.attention import SimplifiedLinear
from leanformer.layers.norm import Norms, PRepBN
from leanformer.models.vit import ViT
from leanformer.training import AdamW, Linear, ModelSpec, RecalibrateBatchNorm, Scheduled, TrainConfig

NANO = ViT(
    image_size=16,
    patch_size=4,
    dim=24,
    depth=2,
    num_heads=2,
    pool="mean",
    drop_path=0.2,
    attention=SimplifiedLinear(),
    norms=Norms(block=PRepBN()),
)
TO_REP_BN = Scheduled(what="norm_progress", schedule=Linear(start=1.0, end=0.0, until=0.6))


@pytest.fixture
def nano_config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        model=ModelSpec(config=NANO),
        out=tmp_path / "run",
        epochs=3,
        batch_size=16,
        optimizer=AdamW(lr=3e-3),
        clip=1.0,
        ema=0.8,
        label_smoothing=0.1,
        schedules=(TO_REP_BN,),
        finish=(RecalibrateBatchNorm(batches=4),),
        checkpoint_every_steps=4,
        log_every=3,
        device="cpu",
    )


@pytest.fixture
def plain_config(nano_config: TrainConfig) -> TrainConfig:
    """The same without anything progressive or averaged."""
    return replace(
        nano_config, model=ModelSpec(config=replace(NANO, norms=Norms())), schedules=(), finish=(), ema=None, clip=None
    )


@pytest.fixture(scope="session")
def nano_data():
    return shapes(96, 4, 16, seed=0), shapes(40, 4, 16, seed=1)


@pytest.fixture
def read_log():
    """The records of `metrics.jsonl`, without how long things took."""

    def read(out: Path) -> list[dict]:
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        of_time = ("seconds", "images_per_second", "data_wait")
        return [{k: v for k, v in record.items() if k not in of_time} for record in records]

    return read


class Launcher:
    """Starts processes that train together, as torchrun starts them or by torchrun itself; none outlives its test."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.started: list[subprocess.Popen] = []

    def jobs(self, *configs, what="nothing", resume=False) -> list[str]:
        """The command that trains the configs one after the other."""
        path = self.folder / f"jobs_{len(self.started)}.json"
        path.write_text(json.dumps([{"config": to_dict(c), "what": what, "resume": resume} for c in configs]))
        return [str(Path(__file__).with_name("rank_child.py")), str(path)]

    def start(self, command: list[str], **environment) -> subprocess.Popen:
        cleared = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC"))}
        variables = {"OMP_NUM_THREADS": 1, "PYTHONPATH": Path(__file__).resolve().parents[2], **environment}
        process = subprocess.Popen(
            [sys.executable, *command],
            env=cleared | {name: str(value) for name, value in variables.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def ranks(self, command: list[str], world: int) -> list[tuple[int, str, str]]:
        """(exit status, output, errors) of so many processes that find each other by their environment."""
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.free_port(), "WORLD_SIZE": world}
        processes = [self.start(command, RANK=rank, LOCAL_RANK=rank, **where) for rank in range(world)]
        outputs = [process.communicate(timeout=300) for process in processes]
        return [(process.returncode, *both) for process, both in zip(processes, outputs, strict=True)]

    def torchrun(self, command: list[str], *options: str) -> subprocess.Popen:
        return self.start(["-m", "torch.distributed.run", *options, *command])

    @staticmethod
    def free_port() -> int:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return listener.getsockname()[1]


@pytest.fixture
def launch(tmp_path):
    launcher = Launcher(tmp_path)
    yield launcher
    for process in launcher.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
