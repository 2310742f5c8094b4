"""What `train` starts from, and how it is changed."""

import json

from leanformer.data.synthetic import write_folder

SMALL = ("--set", "model.image_size=32", "--batch-size", 8, "--epochs", 1, "--device", "cpu")


def weights(out):
    return (out / "model.safetensors").read_bytes()


def test_a_run_is_repeated_from_its_config_bit_for_bit_and_changed_on_request(run, tmp_path):
    data = write_folder(tmp_path / "data", num_classes=2, per_class=8, num_val=2)
    first, again, other = (tmp_path / name for name in "abc")
    outcome = run("train", "deit_nano", "--data", data, "--out", first, *SMALL, "--set", "optimizer.lr=0.01")
    assert outcome.status == 0, outcome.err
    assert run("train", "--from", first / "config.json", "--out", again).status == 0
    assert weights(first) == weights(again)
    assert run("train", "--from", first, "--out", other, "--seed", 1, "--set", "clip=1").status == 0
    told = [json.loads((out / "config.json").read_text()) for out in (first, other)]
    assert [config["optimizer"]["lr"] for config in told] == [0.01, 0.01]
    assert [(config["seed"], config["clip"]) for config in told] == [(0, 5.0), (1, 1)]


def test_a_trained_run_loses_attention_by_one_option(run, tmp_path):
    data = write_folder(tmp_path / "data", num_classes=2, per_class=8, num_val=2)
    first, lean = tmp_path / "first", tmp_path / "lean"
    assert run("train", "deit_nano", "--data", data, "--out", first, *SMALL).status == 0
    chosen = 'model.edits=[{"kind": "dilute_attention", "blocks": [0, 2]}]'
    outcome = run("train", "--from", first, "--weights", first, "--out", lean, "--set", chosen)
    assert outcome.status == 0, outcome.err
    assert "removed the attention of blocks 0, 2: 33,536 parameters" in outcome.err
    told = json.loads((lean / "config.json").read_text())
    assert [scheduled["what"] for scheduled in told["schedules"]] == ["attention_share"]
    assert [step["kind"] for step in told["finish"]] == ["remove_attention"]
    assert run("train", "--from", lean, "--out", tmp_path / "again").status == 0
    assert weights(lean) == weights(tmp_path / "again")


def test_training_needs_something_to_start_from_and_one_thing_alone(refused, tmp_path):
    out = ("--out", tmp_path / "x")
    assert "give either a model or a recipe" in refused("train", *out)
    assert "give either a model or a recipe" in refused("train", "deit_nano", "--from", tmp_path, *out)
    assert "config.json" in refused("train", "--from", tmp_path, *out)


def test_a_recipe_of_imagenet_asks_for_its_images(refused, tmp_path):
    message = refused("train", "flatten_swin_tiny_in1k", "--out", tmp_path / "x")
    assert "no data set is called 'imagenet'" in message


def test_a_wrong_field_is_refused_before_anything_is_read(refused, tmp_path):
    message = refused("train", "deit_nano", "--data", "nowhere", "--out", tmp_path / "x", "--set", "optimizer.lrr=1")
    assert message == "leanformer: --set optimizer.lrr=1: 'adamw' has no field 'lrr'; did you mean lr?\n"


def test_a_recipe_that_starts_from_an_earlier_run_asks_for_it(refused, tmp_path):
    message = refused("train", "flatten_cswin_base_384_in1k", "--data", "nowhere", "--out", tmp_path / "x")
    assert "start from runs/flatten_cswin_base_in1k, which is not there; name other weights by --weights" in message


def test_images_that_cannot_be_mixed_in_pairs_are_refused(run, tmp_path):
    data = write_folder(tmp_path / "data", num_classes=3, per_class=3, num_val=1)
    small = ("--set", "model.image_size=32", "--device", "cpu", "--workers", 0, "--epochs", 1)
    outcome = run("train", "deit_nano", "--data", data, "--out", tmp_path / "x", *small, "--set", "mixing=mixing")
    assert outcome.status == 2
    assert "9 images cannot be mixed in pairs; take an even batch_size, such as 8" in outcome.err
    assert not (tmp_path / "x").exists()
