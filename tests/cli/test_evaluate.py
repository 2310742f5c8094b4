"""`leanformer evaluate`: what it measures on request, for models and data that do not name the same classes."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from leanformer.checkpoints import runs
from leanformer.tasks import Classification

CLASSES = ["blue triangle", "green square", "red circle"]


@pytest.fixture(scope="module")
def two_classes(photos, tmp_path_factory):
    """A test set of two of the classes that the model knows, in no split."""
    folder = tmp_path_factory.mktemp("test") / "some"
    for name in ("red circle", "green square"):
        shutil.copytree(photos / "val" / name, folder / name)
    return folder


def test_each_class_has_its_figures_the_least_accurate_first(run, trained, photos):
    outcome = run("evaluate", trained.out, "--data", photos, "--per-class", "--calibration")
    heading, *rows = outcome.out.splitlines()[:4]
    assert heading.split() == ["class", "accuracy", "precision", "images", "most", "often", "taken", "for"]
    assert sorted(row[:13].strip() for row in rows) == CLASSES
    shares = [float(row[13:].split()[0]) for row in rows]
    assert shares == sorted(shares)
    assert outcome.out.splitlines()[4].startswith("ECE ")


def test_the_json_holds_what_was_asked_for(run, trained, photos):
    plain = json.loads(run("evaluate", trained.out, "--data", photos, "--json").out)
    found = json.loads(run("evaluate", trained.out, "--data", photos, "--json", "--per-class", "--calibration").out)
    assert set(found) - set(plain) == {"per_class", "calibration"}
    assert found["calibration"]["nll"] == plain["loss"]
    assert {row["class"] for row in found["per_class"]} == set(CLASSES)
    assert sum(row["accuracy"] * row["count"] for row in found["per_class"]) == pytest.approx(24 * found["top1"])


def test_the_confusion_matrix_is_written_as_a_table(run, trained, photos, tmp_path):
    path = tmp_path / "confusion.csv"
    outcome = run("evaluate", trained.out, "--data", photos, "--confusion", path, "--json")
    header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    assert header[1:] == [row[0] for row in rows] == CLASSES
    assert [[int(cell) for cell in row[1:]] for row in rows] == json.loads(outcome.out)["confusion"]


def test_a_set_with_some_of_the_classes_is_measured_among_them(run, trained, two_classes):
    found = json.loads(run("evaluate", trained.out, "--data", two_classes, "--split", "all", "--json").out)
    assert found["classes"] == CLASSES[1:]
    assert [sum(row) for row in found["confusion"]] == [8, 8]


def test_the_split_chooses_the_images(run, trained, two_classes, photos):
    counts = {
        split: json.loads(run("evaluate", trained.out, "--data", two_classes, "--split", split, "--json").out)["count"]
        for split in ("train", "val", "all")
    }
    assert counts["train"] + counts["val"] == counts["all"] == 16
    assert 0 < counts["val"] < counts["train"]


def test_a_device_that_is_not_there_is_refused(refused, trained, photos, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = refused("evaluate", trained.out, "--data", photos, "--device", "cuda")
    assert "torch finds no CUDA device" in message


def test_with_several_labels_any_of_them_is_right(run, refused, trained, photos, tmp_path, monkeypatch):
    folders = dict(zip(CLASSES, ("n01440764", "n01443537", "n01484850"), strict=True))
    model = runs.load(trained.out)
    model.set_classes(("tench", "goldfish", "great white shark"))
    runs.save(model, tmp_path / "model")
    sources = sorted((photos / "val").rglob("*.*"))
    for number, source in enumerate(sources, start=1):
        copy = tmp_path / "val" / folders[source.parent.name] / f"ILSVRC2012_val_{number:08d}{source.suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    file = tmp_path / "real.json"
    file.write_text(json.dumps([[]] + [[0, 1, 2]] * (len(sources) - 1)))
    command = ("evaluate", tmp_path / "model", "--data", tmp_path / "val", "--split", "all", "--real")
    outcome = run(*command, file)
    assert outcome.out.endswith("* ReaL Acc@1 100.000\n"), outcome
    found = json.loads(run(*command, file, "--json").out)
    assert (found["real_top1"], found["count"]) == (1.0, len(sources)) and found["top1"] < 1
    monkeypatch.setattr(Classification, "evaluate", None)  # what cannot be had is said before anything is measured
    missing = run(*command, tmp_path / "real.txt")
    assert missing.status == 2 and "real.txt; did you mean real.json?" in missing.err
    message = refused("evaluate", trained.out, "--data", photos, "--real", file)
    assert "ReaL labels are numbers of ImageNet's classes, and 'blue triangle' is none of them" in message


def test_data_is_read_as_in_training_however_its_folder_is_written(run, trained, photos, tmp_path, monkeypatch):
    config = json.loads((trained.out / "config.json").read_text())
    shutil.copytree(trained.out, tmp_path / "run")
    config |= {"data": str(photos / "train"), "data_options": config["data_options"] | {"val_share": 0.5}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(photos)
    ways = (photos / "train", f"{photos}/train/", "train", "./train")
    outcomes = [run("evaluate", tmp_path / "run", "--data", way, "--json") for way in ways]
    assert len({json.loads(outcome.out)["count"] for outcome in outcomes}) == 1


@pytest.mark.extras
def test_an_exported_file_of_one_batch_size_evaluates_any_number_of_images(run, folded, photos, tmp_path):
    pytest.importorskip("onnxruntime")
    file = tmp_path / "one.onnx"
    assert run("export", folded.out, "--out", file, "--fixed-batch").status == 0
    arguments = ("--data", photos, "--batch-size", 7, "--json")
    exported, model = (json.loads(run("evaluate", source, *arguments).out) for source in (file, folded.out))
    assert exported["confusion"] == model["confusion"]
