"""Configs are values: they go to JSON and back, and say where a file is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

import leanformer
from leanformer.config import at, check_per_stage, from_dict, registered_kinds, replace_at, to_dict
from leanformer.errors import ConfigError
from leanformer.layers.attention import FocusedLinear, SimplifiedLinear, Softmax
from leanformer.layers.norm import LayerNorm, NormConfig, Norms, PRepBN
from leanformer.models import BackboneConfig, find
from leanformer.models.swin import Swin


@pytest.mark.parametrize("name", leanformer.list_models())
def test_every_registered_model_survives_json(name: str) -> None:
    config = find(name)
    assert from_dict(json.loads(json.dumps(to_dict(config))), BackboneConfig) == config


def test_every_kind_with_defaults_survives_json() -> None:
    for cls in registered_kinds().values():
        try:
            config = cls()
        except (TypeError, ConfigError):  # has fields that must be given
            continue
        assert from_dict(json.loads(json.dumps(to_dict(config))), object) == config


def test_per_block_attention_survives_json() -> None:
    mixed = replace(find("swin_nano"), attention=(Softmax(), (FocusedLinear(power=4), SimplifiedLinear())))
    assert from_dict(to_dict(mixed), Swin) == mixed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": [2]}, r"config: 'swin' has no field 'depth'; did you mean depths, drop_path\?"),
        ({"depths": "22"}, r"config.depths: '22' is not of type"),
        ({"attention": {"kind": "softmacks"}}, r"config.attention: unknown kind 'softmacks'; did you mean softmax\?"),
        ({"attention": {"kind": "softmax", "relative_position": 1}}, r"config.attention.relative_position: 1 is not"),
        ({"norms": {"kind": "softmax"}}, r"config.norms: Softmax\(.*\) is not of type Norms"),
        ({"attention": {"kind": "focused_linear", "local_kernel": 4}}, r"config.attention: local_kernel must be odd"),
    ],
)
def test_a_wrong_file_names_the_place(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict({**to_dict(find("swin_nano")), **change}, BackboneConfig)


def test_an_unexpected_kind_names_the_choices() -> None:
    with pytest.raises(ConfigError, match="'softmax' is not a NormConfig; choose one of batch_norm, layer_norm"):
        from_dict({"kind": "softmax"}, NormConfig)


def test_replace_at_reaches_inside_and_checks_types() -> None:
    config = replace_at(find("slab_swin_nano"), "norms.block", LayerNorm(eps=1e-3))
    assert config.norms.block == LayerNorm(eps=1e-3)
    assert replace_at(config, "norms.block.eps", 0.5).norms.block.eps == 0.5
    with pytest.raises(ConfigError, match="'swin' has no field 'drop_paht'; did you mean drop_path?"):
        replace_at(config, "drop_paht", 0.1)
    with pytest.raises(ConfigError, match="image_size: 'big' is not of type"):
        replace_at(config, "image_size", "big")
    with pytest.raises(ConfigError, match="'num_classes' is 10, which has no field 'x'"):
        replace_at(config, "num_classes.x", 1)


def test_per_stage_values_reach_stage_and_block() -> None:
    assert at(7, 3, 1) == 7
    assert at((None, 7), 1, 5) == 7
    assert at((1, (2, 3)), 1, 1) == 3
    check_per_stage("x", (1, (2, 3)), (4, 2))
    with pytest.raises(ConfigError, match="x has 2 entries for 3 stages; give one value for all"):
        check_per_stage("x", (1, 2), (2, 2, 2))
    with pytest.raises(ConfigError, match="x has 2 entries for the 3 blocks of stage 1"):
        check_per_stage("x", (1, (2, 3)), (2, 3))
    with pytest.raises(ConfigError, match="attention has 2 entries for 1 stages"):
        replace(find("deit_nano"), attention=(Softmax(), FocusedLinear()))


def test_norms_fall_back_to_the_blocks() -> None:
    norms = Norms(block=PRepBN(), final=LayerNorm())
    assert norms.at("stem") == PRepBN()
    assert norms.at("final") == LayerNorm()


def test_a_choice_that_does_not_exist_is_refused_in_python_too() -> None:
    with pytest.raises(ConfigError, match="normalizer must be one of 'mean', 'sum', got 'max'"):
        FocusedLinear(normalizer="max")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FocusedLinear(power="3"), "focused_linear.power: '3' is not of type int"),
        (lambda: FocusedLinear(power=2.5), "focused_linear.power: 2.5 is not of type int"),
        (lambda: Norms(block=LayerNorm), "norms.block: <class .*LayerNorm'> is not of type NormConfig"),
    ],
    ids=["text", "fraction", "class"],
)
def test_a_value_of_another_type_is_refused_in_python_too(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
