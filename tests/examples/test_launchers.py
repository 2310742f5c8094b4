"""The launchers of `examples/`, with stand-ins for what a cluster has, and torchrun and submitit as they are."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leanformer.checkpoints.files import sha256
from leanformer.data.synthetic import write_folder

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))
NANO = ["slab_swin_nano", "--data", "photos", "--image-size", "32", "--batch-size", "4", "--device", "cpu"]

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$*" >> scontrol.log
if [ "$1 $2" = "show hostnames" ]; then echo localhost; echo other; fi
"""
TORCHRUN = """#!/bin/bash
printf '%s\\n' "$@" > torchrun.log
trap 'echo saved >> torchrun.log; exit 130' TERM
for _ in $(seq 200); do sleep 0.05; done
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with the commands of Slurm, as the first node of a job sees it."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        command(tmp_path / "bin" / name, text)
    job = {"NODELIST": "node[1-2]", "GPUS_ON_NODE": "4", "NUM_NODES": "2"}
    variables = {f"SLURM_JOB_{name}": value for name, value in job.items()} | {"SLURM_JOB_ID": "17"}
    variables |= {"SLURM_GPUS_ON_NODE": "4", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name, value in (variables | {"PATH": path}).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def command(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has(path, text):
    return path.exists() and text in path.read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_bash_can_be_run_and_says_how(script):
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert os.access(script, os.X_OK)
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert "set -euo pipefail" in script.read_text()


def test_a_job_of_slurm_starts_a_torchrun_on_each_node_which_resumes(cluster):
    command(cluster / "bin" / "torchrun", TORCHRUN.replace("200", "0"))
    subprocess.run([EXAMPLES / "slurm_train.sh", "deit_nano", "--data", "a folder", "--out", "runs/a"], check=True)
    arguments = (cluster / "torchrun.log").read_text().splitlines()
    pairs = dict(zip(arguments[:12:2], arguments[1:12:2], strict=True))
    assert (pairs["--nnodes"], pairs["--nproc-per-node"]) == ("2", "4")
    assert pairs["--rdzv-endpoint"] == "localhost:29500"
    train = ["-m", "leanformer", "train", "deit_nano", "--data", "a folder", "--out", "runs/a", "--resume"]
    assert arguments[12:] == train
    assert not has(cluster / "scontrol.log", "requeue")


def test_a_job_whose_time_is_almost_over_saves_and_goes_back_into_the_queue(cluster):
    command(cluster / "bin" / "torchrun", TORCHRUN)
    job = subprocess.Popen([EXAMPLES / "slurm_train.sh", *NANO, "--out", "runs/a"])
    wait_for(lambda: has(cluster / "torchrun.log", "--resume"))
    time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 0
    assert has(cluster / "torchrun.log", "saved")
    assert has(cluster / "scontrol.log", "requeue 17")


def test_a_job_that_fails_says_so_and_stays_out_of_the_queue(cluster):
    command(cluster / "bin" / "torchrun", "#!/bin/bash\nexit 3\n")
    assert subprocess.run([EXAMPLES / "slurm_train.sh", *NANO, "--out", "runs/a"], check=False).returncode == 3
    assert not has(cluster / "scontrol.log", "requeue")


@pytest.mark.slow
def test_a_requeued_job_ends_with_the_weights_of_one_that_was_never_stopped(cluster, monkeypatch):
    write_folder("photos", per_class=12)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    monkeypatch.setenv("PROCESSES_PER_NODE", "2")
    monkeypatch.setenv("MASTER_PORT", "29613")
    training = [EXAMPLES / "slurm_train.sh", *NANO, "--epochs", "3", "--checkpoint-every-steps", "2"]
    subprocess.run([*training, "--out", "runs/whole"], check=True)
    job = subprocess.Popen([*training, "--out", "runs/cut"])
    wait_for(lambda: has(Path("runs/cut/metrics.jsonl"), '"epoch": 1'))
    job.send_signal(signal.SIGUSR1)
    assert job.wait(240) == 0
    assert has(cluster / "scontrol.log", "requeue 17")
    assert not Path("runs/cut/model.safetensors").exists()
    subprocess.run([*training, "--out", "runs/cut"], check=True)
    weights = [sha256(f"runs/{name}/model.safetensors") for name in ("whole", "cut")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_two_machines_train_one_model(cluster, monkeypatch):
    write_folder("photos", per_class=8)
    monkeypatch.setenv("MASTER_PORT", "29614")
    script = str(EXAMPLES / "train_two_nodes.sh")
    ends = [
        subprocess.Popen([script, node, "127.0.0.1", "1", *NANO, "--epochs", "1", "--out", "runs/a"]) for node in "01"
    ]
    assert [end.wait(300) for end in ends] == [0, 0]
    assert Path("runs/a/model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.extras
def test_submitit_trains_in_each_task_and_goes_on_after_preemption(cluster):
    pytest.importorskip("submitit")
    write_folder("photos", per_class=12)
    launch = [sys.executable, str(EXAMPLES / "submitit_train.py"), "--cluster", "local", "--tasks", "2", "--wait"]
    training = [*NANO, "--epochs", "3", "--checkpoint-every-steps", "2", "--out", "runs/a"]
    job = subprocess.Popen([*launch, "--logs", "logs", "--", *training])
    wait_for(lambda: has(Path("runs/a/metrics.jsonl"), '"epoch": 1'))
    (controller,) = {path.name.split("_")[0] for path in Path("logs").glob("*_log.out")}
    for task in Path(f"/proc/{controller}/task/{controller}/children").read_text().split():
        os.kill(int(task), signal.SIGUSR2)
    assert job.wait(300) == 0
    assert "Requeued job" in Path(f"logs/{controller}_0_log.out").read_text()
    assert "resumed runs/a" in Path(f"logs/{controller}_0_log.err").read_text()
    assert Path("runs/a/model.safetensors").exists()
