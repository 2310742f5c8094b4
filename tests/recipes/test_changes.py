"""A run is changed field by field, each value checked, and read back from its directory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from leanformer.config import to_dict
from leanformer.data import Augment
from leanformer.data.mixing import Mixing
from leanformer.errors import CheckpointError, ConfigError
from leanformer.recipes import find_recipe
from leanformer.recipes.changes import change, read_run
from leanformer.training import SGD, Clip, TrainConfig


@pytest.fixture
def config() -> TrainConfig:
    return find_recipe("slab_swin_tiny_in1k", Path("runs/x"))


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("epochs=7", "epochs", 7),
        ("clip = 0.5", "clip", 0.5),
        ("clip=null", "clip", None),
        ("clip=None", "clip", None),
        ('clip={"kind": "clip", "limit": 0.01, "by": "adaptive"}', "clip", Clip(limit=0.01, by="adaptive")),
        ("data=my/photos=2", "data", "my/photos=2"),
        ("data=2024", "data", "2024"),
        ("out=runs/y", "out", Path("runs/y")),
        ("optimizer=sgd", "optimizer", SGD()),
        ("mixing.cutmix=0", "mixing", Mixing(mixup=0.8, cutmix=0)),
        ("augment.scale=(0.5, 1)", "augment", Augment(scale=(0.5, 1), auto_augment="rand-m9-mstd0.5-inc1", erase=0.25)),
    ],
)
def test_a_value_is_read_as_the_field_wants_it(config, assignment, field, value):
    assert getattr(change(config, assignment), field) == value


def test_entries_of_tuples_and_fields_of_the_model_are_reached(config):
    assert change(config, "schedules.0.schedule.until=0.25").schedules[0].schedule.until == 0.25
    assert change(config, "finish.0.passes=2").finish[0].passes == 2
    twice = change(change(config, "model.drop_path=0.1"), "model.drop_path=0.3")
    assert twice.model.overrides == (("drop_path", 0.3),)
    assert change(config, 'model.freeze=["backbone.stem.*"]').model.freeze == ("backbone.stem.*",)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs", "--set epochs: give a field and its value, such as optimizer.lr=1e-3"),
        ("epoch=3", "'train' has no field 'epoch'; did you mean epochs"),
        ("optimizer.weight_decya=3", "'adamw' has no field 'weight_decya'; did you mean weight_decay"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("epochs=3.5", r"--set epochs=3.5: config.epochs: 3.5 is not of type int"),
        ("precision=bf61", "must be one of 'fp32', 'bf16', 'fp16', got 'bf61'"),
        ("model.drop_paht=0.1", "'swin' has no field 'drop_paht'; did you mean drop_path"),
        ("model.drop_path=much", "'much' is not of type float"),
        ("optimizer=sgdd", "'sgdd' is not of type OptimizerConfig; did you mean sgd"),
        ("lr=warm_up", "lr: missing schedule"),
        ("model.config=swin", "a model is given by its name or by a config"),
        ("guard=sgd", "config.guard: 'sgd' is not of type Guard | None"),
        ("guard.tries=3", "'guard' is None, which has no field 'tries'; set 'guard' itself first"),
        ("finish.1.passes=3", "'finish' has 1 entries, numbered from 0, but no '1'"),
        ('clip={"kind": "clpi"}', "unknown kind 'clpi'; did you mean clip"),
    ],
)
def test_a_change_that_does_not_fit_says_what_would(config, assignment, message):
    with pytest.raises(ConfigError, match=message):
        change(config, assignment)


def test_a_kind_that_does_not_fit_the_other_fields_says_so(config):
    with pytest.raises(ConfigError, match=r"--set mixing=mixing: batch_size must be even, .*, got 33"):
        change(dataclasses.replace(config, mixing=None, batch_size=33), "mixing=mixing")


def test_a_run_is_read_from_its_file_or_its_directory(config, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_dict(config)))
    assert read_run(file) == read_run(tmp_path) == config
    with pytest.raises(CheckpointError, match=r"nothing/config\.json"):
        read_run(tmp_path / "nothing" / "config.json")
    file.write_text('{"kind": "train", "epochs": 3}')
    with pytest.raises(ConfigError, match=r"config\.json: missing model"):
        read_run(tmp_path)
