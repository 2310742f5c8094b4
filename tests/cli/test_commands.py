"""Each command after the other on a user's own folder: train, evaluate, predict, compress, export, bench."""

from __future__ import annotations

import json
import re
import shutil

import pytest

import leanformer
from leanformer.data import open_data

CLASSES = ("blue triangle", "green square", "red circle")


def accuracy(printed: str) -> float:
    """Top-1 in per cent, from the line that training and evaluation end with."""
    return float(re.findall(r"^\* Acc@1 (\S+) Acc@5 \S+ loss \S+$", printed, flags=re.MULTILINE)[-1])


def test_training_on_a_folder_of_mixed_images_says_how_it_went(trained):
    assert trained.outcome.status == 0, trained.outcome.err
    assert accuracy(trained.outcome.out) > 100 / 3
    assert f"the model is in {trained.out}" in trained.outcome.out
    assert f"next: leanformer predict {trained.out} IMAGE" in trained.outcome.out
    assert leanformer.load(trained.out).classes == CLASSES


def test_training_shows_every_epoch_and_its_accuracy(trained):
    for epoch in (1, 2, 3):
        assert re.search(rf"^epoch {epoch}/3  train loss \S+  \* Acc@1 \S+", trained.outcome.err, flags=re.MULTILINE)


def test_unreadable_images_are_skipped_counted_and_named_once(trained):
    assert "2 images could not be read and were left out" in trained.outcome.out
    skipped = re.findall(r"^skipped: (.+) cannot be read as an image", trained.outcome.err, flags=re.MULTILINE)
    assert sorted(path.rpartition("/")[2] for path in skipped) == ["000.jpg", "001.png"]


def test_evaluating_a_run_gives_the_accuracy_that_training_printed(run, trained, photos):
    outcome = run("evaluate", trained.out, "--data", photos)
    assert outcome.status == 0
    assert accuracy(outcome.out) == accuracy(trained.outcome.out)


def test_an_evaluation_in_json_counts_every_class(run, trained, photos):
    found = json.loads(run("evaluate", trained.out, "--data", photos, "--json", "--batch-size", 5).out)
    assert found["classes"] == list(CLASSES)
    assert [sum(row) for row in found["confusion"]] == [8, 8, 8]
    right = sum(found["confusion"][i][i] for i in range(3))
    assert found["top1"] == right / found["count"] == right / 24


def test_an_unreadable_image_is_left_out_of_the_figures_and_named(run, trained, tmp_path, photo):
    for name in CLASSES:
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "a.jpg").write_bytes(photo.read_bytes())
    (tmp_path / "val" / "red circle" / "b.png").write_text("not an image")
    outcome = run("evaluate", trained.out, "--data", tmp_path, "--json")
    assert outcome.status == 0
    assert json.loads(outcome.out)["count"] == 3
    assert "b.png cannot be read as an image" in outcome.err
    assert "1 images could not be read" in outcome.err


def test_a_prediction_names_the_class_and_its_probability(run, trained, photo):
    outcome = run("predict", trained.out, photo)
    assert (outcome.status, outcome.err) == (0, "")
    name, probability = leanformer.predict(trained.out, photo)[0]
    assert outcome.out.startswith(f"{photo}: {name} {100 * probability:.1f} %, ")
    assert outcome.out.count("%") == 3


def test_every_kind_of_image_is_predicted_as_in_the_evaluation(run, trained, photos):
    data = open_data(photos, "val")
    files = [photos / data.name(index) for index in range(len(data))]
    outcome = run("predict", trained.out, *files, "--json", "--top", 1)
    named = [best[0]["class"] for best in json.loads(outcome.out).values()]
    right = sum(name == data.classes[label] for name, label in zip(named, data.labels, strict=True))
    assert 100 * right / len(data) == pytest.approx(accuracy(trained.outcome.out), abs=1e-3)


def test_predictions_in_json_are_probabilities_of_the_best_classes_first(run, trained, photo):
    (best,) = json.loads(run("predict", trained.out, photo, "--json", "--top", 99).out).values()
    probabilities = [entry["probability"] for entry in best]
    assert sum(probabilities) == pytest.approx(1.0)
    assert probabilities == sorted(probabilities, reverse=True)
    assert sorted(entry["class"] for entry in best) == list(CLASSES)


def test_a_file_that_is_no_image_leaves_the_others_answered(run, trained, photo, tmp_path):
    text, cut, missing = tmp_path / "text.jpg", tmp_path / "cut.jpg", tmp_path / "missing.jpg"
    text.write_text("not an image")
    cut.write_bytes(photo.read_bytes()[:200])
    outcome = run("predict", trained.out, text, cut, missing, tmp_path, photo, "--json")
    assert outcome.status == 2
    assert list(json.loads(outcome.out)) == [str(photo)]
    folder = re.escape(f"it is a folder; give the images in it: {tmp_path}/*")
    for path, reason in ((text, "its content is no known"), (cut, ""), (missing, "no such file"), (tmp_path, folder)):
        assert re.search(
            rf"^leanformer: {re.escape(str(path))} cannot be read as an image: .*{reason}", outcome.err, re.M
        )


def test_compressing_changes_neither_outputs_nor_accuracy(folded, trained):
    assert folded.outcome.status == 0
    assert "folded 13 of 13 norms" in folded.outcome.out
    extra = json.loads((folded.out / "model.json").read_text())["extra"]
    before, after = extra["compression"]["rows"]
    assert 100 * before["score"] == pytest.approx(accuracy(trained.outcome.out), abs=1e-3)
    assert extra["metrics"]["top1"] == after["score"] == before["score"]
    assert after["parameters"] < before["parameters"]
    assert "Accuracy against latency" in (folded.out / "compress.html").read_text()
    assert [edit.kind for edit in leanformer.load(folded.out).edits] == ["fold_norms"]


def test_named_edits_need_no_training_images(run, trained, photos, tmp_path):
    shutil.copytree(photos / "val", tmp_path / "photos" / "val")
    edit = ["--edit", "fold_norms", "--data", tmp_path / "photos", "--repeats", 6, "--force"]
    outcome = run("compress", trained.out, *edit, "--out", tmp_path / "lean")
    assert outcome.status == 0 and "top-1" in outcome.out


@pytest.mark.extras
def test_exporting_says_how_the_file_compares_with_the_run(exported):
    assert exported.outcome.status == 0
    assert re.search(r"graph: \d+ nodes, 0 of them normalisations", exported.outcome.out)
    assert "compared with the model: max difference" in exported.outcome.out
    assert f"next: leanformer predict {exported.file} IMAGE" in exported.outcome.out


@pytest.mark.extras
def test_an_exported_file_predicts_and_evaluates_as_the_run_does(run, exported, trained, photos, photo):
    by_file = json.loads(run("predict", exported.file, photo, "--json").out)[str(photo)]
    by_run = json.loads(run("predict", trained.out, photo, "--json").out)[str(photo)]
    assert [entry["class"] for entry in by_file] == [entry["class"] for entry in by_run]
    for one, other in zip(by_file, by_run, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
    assert accuracy(run("evaluate", exported.file, "--data", photos).out) == accuracy(trained.outcome.out)


@pytest.mark.extras
def test_bench_measures_a_run_as_it_is_folded_and_exported_with_one_method(run, trained, tmp_path):
    pytest.importorskip("onnxscript")
    page = tmp_path / "bench.md"
    outcome = run("bench", trained.out, "--repeats", 3, "--warmup", 1, "--markdown", page)
    assert outcome.status == 0
    rows = [line for line in outcome.out.splitlines() if line.startswith(str(trained.out))]
    assert [row.removeprefix(str(trained.out)).split("  ")[0] for row in rows] == ["", " folded", " folded onnx"]
    assert all(re.search(r"\d+\.\d\dx \(", row) for row in rows)
    for line in ("repeats: 3", "batch size: 1", "image size: 32 x 32", "threads: 1"):
        assert line in outcome.out
    assert f"| {trained.out} folded onnx |" in page.read_text()


@pytest.mark.extras
def test_bench_compares_a_run_with_an_exported_file_in_json(run, exported, trained):
    outcome = run("bench", trained.out, exported.file, "--forms", "eager", "--repeats", 3, "--json")
    found = json.loads(outcome.out)
    assert [entry["timing"]["name"] for entry in found["results"]] == [str(trained.out), str(exported.file)]
    assert all(entry["timing"]["median_ms"] > 0 for entry in found["results"])
    assert found["method"]["repeats"] == 3


def test_a_published_file_predicts_by_the_number_of_the_class(run, photo, tmp_path):
    import torch

    from leanformer.zoo.weights import layout_of

    model = leanformer.build("deit_tiny").eval()
    file = tmp_path / "deit_tiny.pth"
    torch.save({"model": layout_of(model.config).map_for(model.config).to_published(model.state_dict())}, file)
    best = json.loads(run("predict", "deit_tiny.in1k", photo, "--weights", file, "--json").out)[str(photo)]
    assert (best[0]["class"], best[0]["probability"]) == leanformer.predict(model, photo)[0]
    assert best[0]["class"].isdecimal()


def test_training_may_start_from_a_run_of_other_classes(run, trained, photos, tmp_path):
    (tmp_path / "two").mkdir()
    for name in CLASSES[:2]:
        (tmp_path / "two" / name).symlink_to(photos / "val" / name)
    start = ["--weights", trained.out, "--image-size", 32, "--epochs", 1]
    outcome = run("train", "slab_swin_nano", "--data", tmp_path / "two", *start, "--out", tmp_path / "run")
    assert outcome.status == 0
    assert leanformer.load(tmp_path / "run").classes == CLASSES[:2]
