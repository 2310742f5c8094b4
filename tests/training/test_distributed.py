"""Several processes train as one does."""

import json
from dataclasses import replace

import pytest
import torch

from leanformer.checkpoints import runs
from leanformer.data.mixing import Mixing
from leanformer.layers.norm import LayerNorm, Norms
from leanformer.training import ModelSpec, fit
from leanformer.training.config import Distribution


def kinds(nano_config):
    """Runs without random numbers of the forward pass, which are each rank's own: a model of progressive batch norms
    whose statistics are those of all ranks, and one of layer norms."""
    backbone = replace(nano_config.model.config, drop_path=0.0)
    blends = replace(
        nano_config, model=ModelSpec(config=backbone), log_every=1, distribution=Distribution(batch_norm="sync")
    )
    spec = ModelSpec(config=replace(backbone, norms=Norms(block=LayerNorm())))
    plain = replace(blends, model=spec, schedules=(), distribution=Distribution())
    return {
        "blended": replace(blends, accumulate=4),
        "plain": replace(plain, clip=None, ema=None),
        "in_two_parts": replace(plain, accumulate=2),
        "mixed_in_four_parts": replace(plain, accumulate=4, mixing=Mixing(probability=0.9)),
    }


def losses(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["event"] == "step"]


def state(out):
    return runs.load(out).state_dict()


def test_two_processes_have_the_losses_of_one(nano_config, nano_data, launch, tmp_path):
    configs = kinds(nano_config)
    jobs = launch.jobs(*(replace(config, out=tmp_path / "two" / name) for name, config in configs.items()))
    for status, _, errors in launch.ranks(jobs, 2):
        assert status == 0, errors
    for name, config in configs.items():
        fit(replace(config, out=tmp_path / "one" / name), data=nano_data)
        one, two = losses(tmp_path / "one" / name), losses(tmp_path / "two" / name)
        # Float32 sums in another order: 2e-7 in the loss, and as Adam divides by what it sums, 2e-6 in the weights.
        # Statistics of each rank's own, or other pairs, move the losses by 1e-2.
        assert two == pytest.approx(one, rel=2e-6), name
        torch.testing.assert_close(state(tmp_path / "two" / name), state(tmp_path / "one" / name), rtol=0, atol=2e-5)
        assert (tmp_path / "two" / name / "starts").read_text() == "0\n"


def test_a_directory_that_holds_a_run_is_refused_once_by_all(plain_config, launch):
    plain_config.out.mkdir()
    (plain_config.out / "config.json").write_text("{}")
    results = launch.ranks(launch.jobs(plain_config), 2)
    assert [status for status, _, _ in results] == [1, 1]
    assert ["ConfigError" in errors for _, _, errors in results] == [True, False]
    assert all("already holds a run" in errors for _, _, errors in results)
    assert sorted(path.name for path in plain_config.out.iterdir()) == ["config.json"]


@pytest.fixture
def undisturbed(nano_config, launch, tmp_path):
    """The bytes of the weights of a run of two processes, stochastic depth and batch norms of their own included."""
    config = replace(nano_config, out=tmp_path / "undisturbed")
    assert [status for status, _, _ in launch.ranks(launch.jobs(config), 2)] == [0, 0]
    return (config.out / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_torchrun_starts_a_run_again_that_lost_a_process_and_nothing_shows(nano_config, launch, undisturbed):
    jobs = launch.jobs(nano_config, what="kill 11 1")
    process = launch.torchrun(jobs, "--standalone", "--nproc-per-node", "2", "--max-restarts", "2")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (nano_config.out / "starts").read_text() == "0\n0\n"
    assert (nano_config.out / "model.safetensors").read_bytes() == undisturbed


@pytest.mark.slow
def test_two_machines_train_as_two_processes_of_one(nano_config, launch, undisturbed):
    port = str(launch.free_port())
    where = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port)
    jobs = launch.jobs(nano_config)
    nodes = [launch.torchrun(jobs, *where, "--node-rank", str(rank)) for rank in range(2)]
    for node in nodes:
        _, errors = node.communicate(timeout=300)
        assert node.returncode == 0, errors
    assert (nano_config.out / "model.safetensors").read_bytes() == undisturbed


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(nano_config, nano_data, launch, tmp_path):
    config = replace(kinds(nano_config)["blended"], out=tmp_path / "run")
    stopped = launch.ranks(launch.jobs(config, what="stop 7 1"), 2)
    assert [status for status, _, _ in stopped] == [130, 130]
    assert all("stopped after step 8 of 18" in output for _, output, _ in stopped)
    fit(config, data=nano_data, resume=True)
    alone = replace(config, out=tmp_path / "alone")
    fit(alone, data=nano_data)
    assert losses(config.out) == pytest.approx(losses(alone.out), rel=2e-6)
    torch.testing.assert_close(state(config.out), state(alone.out), rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("what, told", [("fail 7 1", "DataError: rank 1"), ("break 7 0", "ZeroDivisionError: a mis")])
def test_an_error_on_one_rank_ends_all_and_is_said_to_all(what, told, nano_config, launch):
    results = launch.ranks(launch.jobs(nano_config, what=what), 2)
    failed = int(what[-1])
    assert told in results[failed][2]
    assert "EndedElsewhere: " + told.partition(": ")[2] in results[1 - failed][2]
    assert all(status == 1 for status, _, _ in results)


@pytest.mark.slow
def test_a_lost_process_ends_the_others(nano_config, launch):
    results = launch.ranks(launch.jobs(replace(nano_config, batch_size=24), what="kill 7 1"), 3)
    assert [status for status, _, _ in results] == [1, -9, 1]
    errors = results[0][2] + results[2][2]
    assert errors.count("TrainingError: rank") == 1 and "has lost another process" in errors


@pytest.mark.slow
def test_torchrun_starts_the_command_line(launch, tmp_path):
    options = ("--standalone", "--nproc-per-node", "2", "-m", "leanformer")
    train = ["train", "deit_nano", "--data", "garments", "--out", str(tmp_path / "run"), "--epochs", "1"]
    refused = launch.torchrun([*train, "--set", "batch_size=33"], *options)
    _, errors = refused.communicate(timeout=300)
    assert refused.returncode == 1
    assert errors.count("a batch of 33 images cannot be shared by 2 ranks") == 1
    assert not (tmp_path / "run").exists()
    process = launch.torchrun([*train, "--set", "sampling.fraction=0.05", "--batch-size", "30"], *options)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "on cpu in 2 processes" in errors and output.count("trained 10 steps") == 1
    evaluate = ["evaluate", str(tmp_path / "run"), "--data", "garments", "--json"]
    output, errors = launch.torchrun(evaluate, *options).communicate(timeout=300)
    final = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert json.loads(output)["loss"] == final["loss"], errors
