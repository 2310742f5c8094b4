"""What the commands that only look print: list, info, doctor, and how the command line treats its process."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys

import pytest

import leanformer
from leanformer.edits import ClassTokenTail, DiluteAttention, MergeTokens, RemoveAttention
from leanformer.edits.sites import block_sites
from leanformer.models.registry import SYSTEMS
from leanformer.recipes import list_recipes


def test_list_shows_every_model_with_its_parameters_and_published_accuracy(run):
    rows = json.loads(run("list", "--json").out)
    assert [row["model"] for row in rows] == leanformer.list_models()
    by_name = {row["model"]: row for row in rows}
    assert by_name["slab_swin_tiny"]["published top-1"] == 81.8
    assert by_name["slab_swin_nano"]["published top-1"] is None
    model = leanformer.build("slab_swin_nano")
    assert by_name["slab_swin_nano"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert all(row["what it is"].endswith(".") for row in rows)


def test_list_lines_its_columns_up(run):
    lines = run("list", "slab_swin_*").out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", *leanformer.list_models("slab_swin_*")]
    assert len({line.index("swin  ") for line in lines[1:]}) == 1
    places = {line.index("none published") for line in lines if "none published" in line}
    assert places == {lines[0].index("license of weights")}
    tiny = next(line for line in lines if line.startswith("slab_swin_tiny "))
    assert " slab    swin      29.22 M     4.48 G   81.8             224x224  none published" in tiny


@pytest.mark.parametrize(
    ("options", "holds"),
    [
        (["--system", "flatten"], lambda row: row["system"] == "flatten"),
        (["--system", "base"], lambda row: row["system"] == "base"),
        (["--backbone", "pvt_v2"], lambda row: row["backbone"] == "pvt_v2"),
        (["--max-params", 5.5], lambda row: row["parameters"] <= 5_500_000),
        (
            ["--min-params", 50, "--min-accuracy", 84],
            lambda row: row["parameters"] >= 5e7 and (row["published top-1"] or 0) >= 84,
        ),
    ],
    ids=["system", "base", "backbone", "at_most", "at_least"],
)
def test_list_shows_what_passes_its_filters(run, options, holds):
    rows = json.loads(run("list", "--json").out)
    chosen = json.loads(run("list", "--json", *options).out)
    assert 0 < len(chosen) < len(rows)
    assert chosen == [row for row in rows if holds(row)]


def test_list_knows_the_systems_by_where_their_models_are_registered(run):
    systems = {row["model"]: row["system"] for row in json.loads(run("list", "--json").out)}
    assert systems["slab_pvt_tiny"] == systems["deit_tiny_prepbn"] == "slab"
    assert systems["swiftformer_xs"] == "swiftformer" and systems["l2vit_tiny"] == "l2vit"
    assert systems["deit_base_removed_01346"] == "attention_removal"
    assert systems["swin_tiny"] == systems["deit_base"] == "base"
    assert set(systems.values()) == {"base", *SYSTEMS}


def test_list_refuses_filters_that_nothing_passes(refused):
    assert "no model here has the backbone 'swim'; there are cswin, " in refused("list", "--backbone", "swim")
    assert "matches 'swin'; patterns take `*`: try '*swin*'" in refused("list", "swin")
    assert "--min-accuracy is in per cent, such as 81.5, got 0.8" in refused("list", "--min-accuracy", 0.8)
    message = refused("list", "--recipes", "--system", "slab", "--max-params", 3)
    assert "--recipes takes no filters of models; leave out --system, --max-params" in message
    assert "fits all filters" in refused("list", "swin_*", "--min-params", 1000)


def test_list_shows_the_recipes(run):
    rows = json.loads(run("list", "--recipes", "--json").out)
    assert [row["recipe"] for row in rows] == list_recipes()
    assert "slab_swin_nano_garments" in run("list", "--recipes").out


def test_info_shows_the_structure_of_a_model(run):
    printed = run("info", "slab_swin_tiny").out
    assert "slab_swin_tiny: swin, 224 x 224 images, 1000 classes" in printed
    for line in (
        "stages.0: 96 channels, stride 4",
        "  blocks.0-1: Simplified, whole map, norm PRepBN",
        "  blocks.1: Softmax, windows of 7 shifted by 3, norm PRepBN",
        "license of the weights: none published",
    ):
        assert line in printed


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("deit_tiny_removed_024", ["  blocks.0: no attention, tokens times 2, norm LayerNorm", "  MLP: "]),
        ("cswin_tiny", ["  blocks.0: Softmax, stripes of 1 down and across, norm LayerNorm"]),
        (
            "swiftformer_xs",
            ["  blocks.0-1: no attention, LocalMLP, norm BatchNorm", "  blocks.2: Additive, whole map, norm "],
        ),
        ("l2vit_tiny", ["  blocks.1: Normalized, whole map, norm LayerNorm, with ConvPosition, LocalConcentration"]),
        ("slab_pvt_v2_b0", ["  local convolutions: ", "PVTv2-B0 with simplified linear attention"]),
        ("deit_nano", ["  attention projections: "]),
    ],
)
def test_info_shows_every_sort_of_block(run, name, lines):
    printed = run("info", name).out
    for line in lines:
        assert f"\n{line}" in printed


@pytest.mark.parametrize("name", leanformer.list_models("*_nano"))
def test_info_shows_where_the_cost_is(run, name):
    found = json.loads(run("info", name, "--json").out)
    assert sum(found["macs by part"].values()) == found["macs"]
    assert found["macs by part"]["stem"] and found["macs by part"]["MLP"] and found["macs by part"]["head"]


def test_info_in_json_holds_the_whole_config(run):
    from leanformer.config import from_dict
    from leanformer.models import BackboneConfig, find

    found = json.loads(run("info", "flatten_swin_tiny", "--json").out)
    assert from_dict(found["config"], BackboneConfig) == find("flatten_swin_tiny")
    assert found["parameters"] == sum(p.numel() for p in leanformer.build("flatten_swin_tiny").parameters())
    assert [stage["stage"] for stage in found["stages"]] == [0, 1, 2, 3]


def test_info_of_a_run_names_its_classes_and_edits(run, folded):
    printed = run("info", folded.out).out
    assert "swin, 32 x 32 images, 3 classes" in printed
    assert "norm folded" in printed
    assert "edit: fold_norms" in printed
    assert json.loads(run("info", folded.out, "--json").out)["edits"][0]["kind"] == "fold_norms"


def test_info_shows_what_became_of_attention(run, tmp_path):
    model = leanformer.build("deit_nano")
    leanformer.apply(
        model,
        RemoveAttention(blocks=(0,)),
        RemoveAttention(blocks=(1,), form="skip"),
        DiluteAttention(blocks=(2, 3)),
    )
    block_sites(model)[2].block.attn.set_scheduled(0.25)
    leanformer.save(model, tmp_path)
    lines = run("info", tmp_path).out.splitlines()
    for line in (
        "  blocks.0: no attention, tokens times 2, norm LayerNorm",
        "  blocks.1: no attention, tokens as they are, norm LayerNorm",
        "  blocks.2: Softmax diluted to 0.25, whole map, norm LayerNorm",
        "  blocks.3: Softmax diluted to 1, whole map, norm LayerNorm",
        "edit: remove_attention, blocks 0",
        "edit: remove_attention, blocks 1, form skip",
        "edit: dilute_attention, blocks 2, 3",
    ):
        assert line in lines


def test_the_version_is_one_word_away(run):
    assert run("--version").out == f"leanformer {leanformer.__version__}\n"


def test_info_says_where_keys_come_from_and_that_there_is_no_classifier(run):
    printed = run("info", "pvt_tiny").out
    assert "  blocks.0-1: Softmax, whole map, keys reduced by 8, norm LayerNorm" in printed
    assert "  blocks.0-1: Softmax, whole map, norm LayerNorm" in printed  # the last stage reduces by 1: nothing
    assert "whole map, keys pooled to 7 x 7, norm" in run("info", "pvt_v2_b2_linear").out
    printed = run("info", "vit_small_dinov2").out
    assert "518 x 518 images, no classifier\n" in printed
    assert " 0.0 M" not in printed and "0 classes" not in printed


def test_info_gives_small_parts_in_a_unit_in_which_they_are_not_zero(run):
    printed = run("info", "deit_nano").out
    assert "  head: 0.6 k, " in printed
    assert " 0.0 M" not in printed


@pytest.mark.runtimes  # imports them
def test_doctor_shows_versions_threads_and_what_works(run):
    outcome = run("doctor")
    assert outcome.status == 0
    for line in (f"leanformer: {leanformer.__version__}", "torch threads: 1", "accelerators: "):
        assert f"{line}" in outcome.out
    assert f"safetensors {importlib.metadata.version('safetensors')}" in outcome.out


@pytest.mark.runtimes  # imports them
def test_doctor_says_how_to_install_what_is_missing(run):
    found = json.loads(run("doctor", "--json").out)
    printed = run("doctor").out
    for extra, states in found["extras"].items():
        missing = extra != "default" and "not installed" in states.values()
        assert (f"pip install 'leanformer[{extra}]'" in printed) == missing


@pytest.mark.runtimes  # imports them
def test_doctor_says_what_is_broken_and_fails(run, monkeypatch, tmp_path):
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('half of it is gone')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rich", raising=False)
    outcome = run("doctor")
    assert outcome.status == 1
    assert "rich broken (half of it is gone)" in outcome.out


def test_a_command_leaves_logging_as_it_was(run, capsys):
    logger = logging.getLogger("leanformer")
    before = logger.level, logger.propagate, list(logger.handlers)
    run("list", "swin_*")
    run("list", "nothing")
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "predict", "compress", "export", "bench", "list"])
def test_help_says_what_a_command_is_for(run, command):
    outcome = run(command, "--help")
    assert outcome.status == 0
    assert f"usage: leanformer {command}" in outcome.out


def test_info_shows_how_many_tokens_are_left(run, tmp_path):
    model = leanformer.build("deit_nano").eval()
    leanformer.apply(model, MergeTokens(r=9, start=1), ClassTokenTail())
    leanformer.save(model, tmp_path / "merged")
    told = run("info", tmp_path / "merged").out
    assert "blocks.0: Softmax, whole map, norm LayerNorm, 65 tokens, 65 behind the attention" in told
    assert "blocks.2: Softmax, whole map, norm LayerNorm, 56 tokens, 47 behind the attention" in told
    assert "blocks.3: Softmax of the tokens that are read, whole map" in told
    assert "47 tokens, 1 behind the attention" in told
    facts = json.loads(run("info", tmp_path / "merged", "--json").out)
    whole = json.loads(run("info", "deit_nano", "--json").out)
    assert facts["macs"] < 0.85 * whole["macs"]
    assert facts["stages"][0]["blocks"][1]["tokens"] == {"before": 65, "behind": 56}
