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
