"""What cannot be done is refused in a sentence that says what would work, with status 2, before anything is written."""

from __future__ import annotations

import re

import pytest
from PIL import Image

TRAIN = ("train", "slab_swin_nano", "--image-size", 32, "--epochs", 1)


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40)).save(path)


@pytest.mark.parametrize("name", ["slab_swin_nan", "slab_swim_nano", "SLAB_swin_nano"])
@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "export", "info", "bench"])
def test_an_unknown_model_is_answered_with_the_nearest(refused, command, name, photos, photo, tmp_path):
    rest = {
        "train": ["--data", photos, "--out", tmp_path / "run"],
        "predict": [photo],
        "evaluate": ["--data", photos],
        "export": ["--out", tmp_path / "a.onnx"],
    }
    message = refused(command, name, *rest.get(command, []))
    assert re.search(rf"unknown model (or recipe )?'{name}'; did you mean .*slab_swin_nano", message)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_recipe_is_answered_with_the_nearest(refused, tmp_path):
    message = refused("train", "slab_nano_garments", "--out", tmp_path / "run")
    assert "unknown model or recipe 'slab_nano_garments'; did you mean slab_swin_nano_garments" in message


def test_a_name_unlike_any_other_is_answered_with_the_way_to_the_list(refused, photos, tmp_path):
    message = refused("train", "xyz", "--data", photos, "--out", tmp_path / "run")
    assert "unknown model or recipe 'xyz'; `leanformer list` shows models and recipes" in message
    assert "no model's name matches 'xyz*'; `leanformer list` shows them all" in refused("list", "xyz*")


def test_an_unknown_edit_is_answered_with_those_that_exist(refused, trained, tmp_path):
    message = refused("compress", trained.out, "--edit", "fold_norm", "--out", tmp_path / "out")
    assert "unknown edit 'fold_norm'; did you mean fold_norms" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("trainn",), "train"),
        ((), "demo, train"),
        (("train", "slab_swin_nano", "--out", "run", "--epoch", "3"), "--epochs"),
        (("train", "slab_swin_nano", "--out", "run", "--epochs", "three"), "--epochs"),
        (("train", "slab_swin_nano"), "--out"),
        (("export", "runs/a", "--out", "a.onnx", "--format", "onxx"), "onnx"),
    ],
)
def test_a_mistyped_command_line_is_explained(run, arguments, near):
    outcome = run(*arguments)
    assert outcome.status == 2
    assert near in outcome.err


def test_data_must_be_given_for_a_model_but_not_for_a_recipe(refused, tmp_path):
    message = refused(*TRAIN, "--out", tmp_path / "run")
    assert "no data given; add --data FOLDER, or --data garments" in message


def test_a_missing_folder_is_named_with_its_nearest_neighbor(refused, photos, trained, tmp_path):
    missing = photos.with_name("photo")
    for command in ((*TRAIN, "--out", tmp_path / "run"), ("evaluate", trained.out)):
        assert f"there is no folder {missing}; did you mean photos?" in refused(*command, "--data", missing)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_set_is_answered_with_the_nearest(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused(*TRAIN, "--data", "garment", "--out", "run")
    assert "no data set is called 'garment'" in message and "did you mean garments?" in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_classes_says_what_was_expected(refused, tmp_path):
    put(tmp_path / "flat" / "1.png")
    message = refused(*TRAIN, "--data", tmp_path / "flat", "--out", tmp_path / "run")
    assert "flat holds no class folders; its 1 images lie in no class folder; expected ROOT/train/<class>" in message
    assert not (tmp_path / "run").exists()


def test_a_class_without_images_is_named(refused, tmp_path):
    put(tmp_path / "data" / "cat" / "1.png")
    put(tmp_path / "data" / "cat" / "2.png")
    (tmp_path / "data" / "dog").mkdir()
    message = refused(*TRAIN, "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert re.search(r"class 'dog' has no images in .*data/dog; add some \(bmp .*\) or remove the folder", message)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_which_no_image_can_be_read_names_the_first(run, tmp_path):
    for name in ("a", "b"):
        for number in (1, 2, 3):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name / f"{number}.jpg").write_text("no image")
    outcome = run(*TRAIN, "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert outcome.status == 2
    assert re.search(r"none of the \d images can be read\n  .*data/[ab]/\d\.jpg cannot be read", outcome.err)
    assert not (tmp_path / "run" / "model.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image-size", 30), "image_size 30 is not a multiple of the patch size 4 of 'swin'; take 28 or 32"),
        (("--image-size", 0), "image_size must be positive"),
        (("--image-size", -8), "image_size must be positive"),
        (("--epochs", 0), "epochs must be at least 1, got 0"),
        (("--batch-size", 0), "batch_size must be at least 1, got 0"),
        (("--lr", -0.1), "(lr) must be finite and not negative, got -0.1"),
        (("--ema", 2), "ema must be between 0 and 1, or None, got 2.0"),
        (("--seed", -1), "seed must be 0 or more, got -1"),
        (("--workers", -1), "workers must be 0 or more, got -1"),
        (("--checkpoint-every-steps", 0), "checkpoint_every_steps must be at least 1, or None, got 0"),
        (("--weights", "nowhere.pth"), "no file nowhere.pth"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_written(refused, photos, tmp_path, options, message):
    assert message in refused("train", "slab_swin_nano", "--data", photos, "--out", tmp_path / "run", *options)
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_holds_a_run_is_left_as_it_is(refused, trained, photos):
    before = {path: path.read_bytes() for path in trained.out.rglob("*") if path.is_file()}
    message = refused(*TRAIN, "--data", photos, "--out", trained.out)
    assert f"{trained.out} already holds a run; go on with it by --resume, or choose another --out" in message
    message = refused("compress", trained.out, "--edit", "fold_norms", "--out", trained.out)
    assert f"{trained.out} already holds a run; choose another --out" in message
    assert {path: path.read_bytes() for path in trained.out.rglob("*") if path.is_file()} == before


def test_an_out_that_is_a_file_is_left_as_it_is(refused, trained, photos, tmp_path):
    file = tmp_path / "notes"
    file.write_text("mine")
    assert f"{file} is a file; give a directory" in refused(*TRAIN, "--data", photos, "--out", file)
    assert f"{file} is a file; give a directory" in refused(
        "compress", trained.out, "--edit", "fold_norms", "--out", file
    )
    assert file.read_text() == "mine"


@pytest.mark.extras
def test_an_export_to_a_folder_is_refused(refused, trained):
    pytest.importorskip("onnxscript")
    assert f"{trained.out} is a folder; give the path of a file" in refused("export", trained.out, "--out", trained.out)


def test_resuming_with_another_setting_says_which(refused, trained, photos):
    message = refused(*TRAIN, "--data", photos, "--out", trained.out, "--resume")
    assert "was started with another config" in message
    assert "epochs: 3 -> 1" in message


def test_a_data_set_of_other_classes_is_refused_with_one_of_them(refused, trained):
    message = refused("evaluate", trained.out, "--data", "garments")
    assert "garments has 10 classes, but not the 3 classes that the model was trained on; 't-shirt' is none" in message


def test_predict_needs_an_image_and_at_least_one_class(refused, trained, photo):
    assert f"no image given: leanformer predict {trained.out} IMAGE" in refused("predict", trained.out)
    for top in (0, -1):
        assert f"--top must be at least 1, got {top}" in refused("predict", trained.out, photo, "--top", top)


@pytest.mark.parametrize("kind", ["missing", "text", "cut", "folder"])
def test_an_image_that_cannot_be_read_is_named(refused, trained, photo, tmp_path, kind):
    path = tmp_path / "picture.jpg"
    if kind == "text":
        path.write_text("not an image")
    elif kind == "cut":
        path.write_bytes(photo.read_bytes()[:200])
    elif kind == "folder":
        path.mkdir()
    reason = {"missing": "there is no such file", "text": "its content is no known image format", "folder": "a folder"}
    message = refused("predict", trained.out, path)
    assert f"{path} cannot be read as an image" in message
    assert reason.get(kind, "") in message


def test_bench_needs_models_that_take_the_same_images(refused, trained):
    message = refused("bench", trained.out, "swin_nano")
    assert "the models take images of different sizes, [(32, 32), (64, 64)]; measure them one by one" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no model given: leanformer bench MODEL"),
        (("swin_nano", "--forms"), "no form given: --forms eager folded onnx"),
        (("deit_tiny", "--image-size", 32, "--forms", "folded"), "deit_tiny has no norm that folds"),
        (("swin_nano", "--forms", "eager", "--batch-size", 0), "batch_size, repeats and threads must be at least 1"),
        (("swin_nano", "--forms", "eager", "--repeats", 0), "batch_size, repeats and threads must be at least 1"),
        (("swin_nano", "--forms", "eager", "--threads", 0), "batch_size, repeats and threads must be at least 1"),
        (("swin_nano", "--image-size", 30), "image_size 30 is not a multiple"),
        (("swin_nano", "swin_nano", "--forms", "eager"), "two runners are named 'swin_nano'"),
        (("missing/run",), "no folder missing/run"),
    ],
)
def test_a_measurement_that_cannot_be_is_refused(refused, arguments, message):
    assert message in refused("bench", *arguments)


def test_rounds_that_tell_nothing_from_noise_are_refused(refused, trained, tmp_path):
    message = refused("compress", trained.out, "--edit", "fold_norms", "--repeats", 5, "--out", tmp_path / "out")
    assert "--repeats must be at least 6, got 5" in message
    assert list(tmp_path.iterdir()) == []


def test_folding_twice_is_refused(refused, folded, tmp_path):
    message = refused("compress", folded.out, "--edit", "fold_norms", "--out", tmp_path / "again")
    assert "fold_norms: nothing to fold" in message and "folded already" in message
    assert list(tmp_path.iterdir()) == []


def test_the_demo_refuses_settings_before_it_trains(refused, run, tmp_path):
    assert "--repeats must be at least 1, got 0" in refused("demo", "--repeats", 0, "--out", tmp_path / "demo")
    assert "epochs must be at least 1, got 0" in refused("demo", "--epochs", 0, "--out", tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []
