import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from leanformer.config import from_dict, to_dict
from leanformer.edits import RemoveAttention
from leanformer.edits.sites import block_sites
from leanformer.training import TrainConfig
from leanformer.training.build import build_model

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fashion_mnist.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fashion_mnist", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def options(script, tmp_path):
    return script.Options(device_name="here", out=tmp_path)


def test_every_model_is_built_and_its_run_can_be_repeated_from_its_file(script, options):
    directories = set()
    for name, plan in script.MODELS.items():
        config = script.run_config(name, options, seed=3)
        assert from_dict(to_dict(config), TrainConfig) == config
        assert config.seed == 3
        directories.add(config.out)
        with torch.device("meta"):
            built = build_model(plan_without_weights(config).model, tuple("0123456789"))
        assert built.config.image_grid == (28, 28)
        if plan.diluted:
            assert len(plan.diluted) == len(block_sites(built)) // 2
            assert RemoveAttention(blocks=plan.diluted) in config.finish
    assert len(directories) == len(script.MODELS)


def plan_without_weights(config):
    """The config of a run that starts from random weights."""
    return replace(config, model=replace(config.model, weights=None))


def test_what_is_compared_and_what_is_started_from_is_trained(script):
    names = list(script.MODELS)
    assert {name for twins in script.TWINS for name in twins} | set(script.REPEATED) <= set(names)
    for name, plan in script.MODELS.items():
        assert plan.start is None or names.index(plan.start) < names.index(name)


def row(script, model, right, seed=0):
    return script.Row(
        model=model,
        seed=seed,
        parameters=380_000,
        macs=4_100_000,
        epochs="5",
        cpu_seconds=200.0,
        wall_seconds=300.0,
        top1=sum(right) / len(right),
        folding="none can be",
        right=torch.tensor(right),
    )


def test_the_page_tells_twins_apart_by_the_images_on_which_they_differ(script, options):
    twin = row(script, "softmax, LayerNorm", [True] * 90 + [False] * 10)
    worse = row(script, "softmax, PRepBN", [True] * 86 + [False] * 14)
    equal = row(script, "softmax, RepBN", [True] * 90 + [False] * 10)
    assert script.difference(equal, twin) == (0.0, 0.0)
    points, error = script.difference(worse, twin)
    assert points == pytest.approx(-4.0)
    assert error == pytest.approx(100 * (0.04 * 0.96 / 99) ** 0.5)
    text = script.page([twin, worse, equal, row(script, "softmax, PRepBN", [True], seed=1)], options, "kept\n")
    assert "| softmax, PRepBN | softmax, LayerNorm | 0 | 86.00 / 90.00 | -4.00 | 1.97 |" in text
    assert text.count("| softmax, LayerNorm | 0 |") == 3  # the model's own line, and two that it is the twin of
    assert text.endswith("## Notes\nkept\n")
