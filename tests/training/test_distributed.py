"""Several processes train as one does."""

import json
from dataclasses import replace

import pytest
import torch

from leanformer.checkpoints import runs
from leanformer.data.mixing import Mixing
from leanformer.edits import FoldNorms
from leanformer.errors import ConfigError
from leanformer.layers.norm import LayerNorm, Norms
from leanformer.training import SGD, BatchNormPhase, Clip, Distribution, Execution, ModelSpec, fit
from leanformer.training.distributed import Ranks, join_ranks
from leanformer.training.parallel import choose_parallel, collected


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
@pytest.mark.parametrize("what, told", [("fail 7 1", "DataError: rank 1"), ("break 7 0", "ZeroDivisionError: a")])
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


@pytest.mark.slow
def test_shares_of_every_weight_train_as_the_whole(nano_config, nano_data, launch, tmp_path):
    """What ends in folded norms, an average and two optimizers' states; one is stopped, and goes on in one process."""
    shared = Distribution(strategy="fsdp", batch_norm="sync")
    blended, plain, parts = (
        replace(config, distribution=shared)
        for name, config in kinds(nano_config).items()
        if name != "mixed_in_four_parts"
    )
    configs = {
        "folded": replace(blended, finish=(*blended.finish, FoldNorms())),
        "momentum": replace(plain, optimizer=SGD(lr=0.05), execution=Execution(checkpointing=True)),
        "in_parts": replace(parts, clip=Clip(limit=0.02, by="value")),
    }
    here = {name: replace(config, out=tmp_path / "two" / name) for name, config in configs.items()}
    assert [status for status, _, _ in launch.ranks(launch.jobs(*here.values()), 2)] == [0, 0]
    stopped = replace(configs["folded"], out=tmp_path / "stopped")
    assert [status for status, _, _ in launch.ranks(launch.jobs(stopped, what="stop 7 1"), 2)] == [130, 130]
    fit(stopped, data=nano_data, resume=True)
    for name, config in configs.items():
        fit(replace(config, out=tmp_path / "one" / name), data=nano_data)
        for other in (here[name].out, stopped.out) if name == "folded" else (here[name].out,):
            assert losses(other) == pytest.approx(losses(tmp_path / "one" / name), rel=2e-6), name
            torch.testing.assert_close(state(other), state(tmp_path / "one" / name), rtol=0, atol=2e-5)


class Shared:
    """A tensor in shares, that notes when it is put together."""

    def __init__(self, value, log):
        self.value, self.log = value, log

    def full_tensor(self):
        self.log.append(self.value)
        return torch.full((2,), self.value)


def test_weights_in_shares_are_put_together_by_all_ranks_and_kept_by_one():
    log = []
    tensors = {"a": Shared(1.0, log), "b": torch.zeros(3), "c": Shared(2.0, log)}
    kept = collected(tensors, keep=True)
    assert (list(kept), kept["b"] is tensors["b"], kept["c"].tolist()) == (["a", "b", "c"], True, [2.0, 2.0])
    assert collected(tensors, keep=False) == {}
    assert log == [1.0, 2.0] * 2


@pytest.mark.parametrize(
    "change, told",
    [
        ({"clip": Clip(limit=0.1, by="adaptive")}, "cannot clip by 'adaptive'"),
        ({"execution": Execution(channels_last=True)}, "leave out channels_last"),
        ({"batch_norm_phase": BatchNormPhase(epochs=1)}, "leave out batch_norm_phase"),
    ],
    ids=["clip", "layout", "phase"],
)
def test_what_shares_of_weights_cannot_do_is_refused(change, told, nano_config):
    config = replace(nano_config, distribution=Distribution(strategy="fsdp"), **change)
    with pytest.raises(ConfigError, match=told):
        choose_parallel(config, Ranks(rank=0, world=2), torch.device("cpu"))


def test_a_launch_without_an_address_or_with_odd_numbers_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="rank 1 of 2, but MASTER_ADDR does not say"), join_ranks():
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE must be a number, got 'two'"), join_ranks():
        pass


def test_a_process_by_itself_joins_nobody(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "3")  # an allocation in which one process was started by hand
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with join_ranks() as ranks:
        assert (ranks.world, ranks.share, ranks.gather("x"), ranks.any(True)) == (1, (0, 1), ["x"], True)
        assert not torch.distributed.is_initialized()
