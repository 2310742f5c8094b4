"""A profile says where the time of an epoch goes; the log always has the share of waiting."""

import json
import logging
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from leanformer.data import ImageFolder
from leanformer.data.synthetic import shapes, write_folder
from leanformer.training import fit
from leanformer.training.profiling import Profile, waited_for


class Slow(ImageFolder):
    """A folder on a slow disk."""

    def image(self, index):
        """The image, late."""
        time.sleep(0.02)
        return super().image(index)


@pytest.fixture
def profiled(plain_config, tmp_path):
    folder = write_folder(tmp_path / "photos", per_class=12, num_val=4)
    return folder, replace(plain_config, epochs=1, batch_size=6, profile=True, data=str(folder))


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_slow_images_are_named_the_bottleneck(profiled, caplog):
    folder, config = profiled
    with caplog.at_level(logging.INFO, "leanformer"):
        fit(config, data=(Slow(folder, "train"), Slow(folder, "val")))
    (parts,) = [line for line in lines(caplog) if line.startswith("the data pipeline: ")]
    assert all(part in parts for part in ("decode ", "resize ", "augment ", "collate "))
    (epoch,) = [line for line in lines(caplog) if line.startswith("epoch 1 took")]
    assert "waiting for data" in epoch and "model" in epoch
    assert epoch.endswith("the data pipeline is the bottleneck; try more than 0 workers, or images stored smaller")
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    shares = [row["data_wait"] for row in rows if row["event"] == "step"]
    assert shares and all(0.3 < share <= 1 for share in shares)


def test_arrays_are_not(plain_config, nano_data, caplog):
    with caplog.at_level(logging.INFO, "leanformer"):
        fit(replace(plain_config, epochs=1, profile=True), data=nano_data)
    assert any(line.endswith("the data pipeline is not the bottleneck") for line in lines(caplog))
    assert not any(line.startswith("the data pipeline: ") for line in lines(caplog))


def test_a_profile_changes_no_weight(profiled):
    _, config = profiled
    plain = fit(replace(config, profile=False, out=config.out / "plain")).model.state_dict()
    seen = fit(replace(config, out=config.out / "profiled")).model.state_dict()
    assert all(seen[name].equal(value) for name, value in plain.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_start_of_workers_is_said_apart_and_is_no_bottleneck(workers, caplog):
    def batches(first):
        time.sleep(first)
        yield from range(3)

    config = SimpleNamespace(workers=workers)
    run = SimpleNamespace(config=config, waited=0.0, start_up=0.0, train_images=shapes(4, 2, 8, seed=0))
    profile = Profile()
    with caplog.at_level(logging.INFO, "leanformer"):
        profile.on_start(run)
        for epoch, first in enumerate((0.2, 0.0)):
            for step, _ in enumerate(waited_for(run, batches(first))):
                profile.on_step(run, step)
                time.sleep(0.02)
                profile.after_step(run, step)
            profile.on_epoch(run, epoch)
    one, two = lines(caplog)
    assert ("starting workers 0.2 s, waiting for data 0.0 s" in one) == bool(workers)
    assert ("is not the bottleneck" in one) == bool(workers)
    assert "starting" not in two and "is not the bottleneck" in two
