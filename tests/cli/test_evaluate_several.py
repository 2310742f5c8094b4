"""`leanformer evaluate` and the page of a run, for images of several classes and for several views of an image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import leanformer
from leanformer.data import DataOptions, Sampling
from leanformer.data.preprocess import prepare
from leanformer.data.synthetic import write_folder
from leanformer.layers.norm import Norms, RepBN
from leanformer.models.vit import ViT
from leanformer.training import ModelSpec, TrainConfig, fit
from leanformer.viz import write_run_page

ATTRIBUTES = ["blue", "circle", "green", "red", "square", "triangle"]
FIGURES = {"mAP", "micro_f1", "macro_f1", "subset_accuracy", "loss", "count"}


@pytest.fixture(scope="module")
def attributes(tmp_path_factory) -> Path:
    """A list of colored shapes, each labeled with its color and its shape."""
    folder = write_folder(tmp_path_factory.mktemp("attributes") / "photos", per_class=12, num_val=8)
    lines = ["path,label,split"]
    for file in sorted(path for path in folder.rglob("*.*") if path.is_file()):
        split, name, _ = file.relative_to(folder).parts
        lines.append(f"{file.relative_to(folder)},{name.replace(' ', ';')},{split}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


@pytest.fixture(scope="module")
def several(attributes, tmp_path_factory) -> Path:
    """A run on half of them, read as the list alone does not say."""
    config = TrainConfig(
        model=ModelSpec(
            config=ViT(image_size=32, patch_size=8, dim=24, depth=1, num_heads=2, norms=Norms(block=RepBN()))
        ),
        data=str(attributes),
        data_options=DataOptions(multi_label=True),
        sampling=Sampling(fraction=0.5),
        class_weights="balanced",
        out=tmp_path_factory.mktemp("runs") / "several",
        epochs=2,
        batch_size=8,
        device="cpu",
    )
    fit(config)
    return config.out


def test_a_run_of_several_classes_reports_their_figures(several):
    rows = [json.loads(line) for line in (several / "metrics.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row["event"] == "epoch"]
    assert len(epochs) == 2 and all(set(row) >= FIGURES - {"count"} for row in epochs)
    assert set(json.loads((several / "model.json").read_text())["extra"]["metrics"]) == FIGURES
    text = write_run_page(several).read_text()
    assert "% mAP on 24 images of 6 classes" in text and "top-1" not in text


def test_evaluation_reads_a_list_as_the_run_did(run, several, attributes):
    found = json.loads(run("evaluate", several, "--data", attributes, "--json", "--per-class").out)
    assert set(found) == FIGURES | {"classes", "per_class"} and found["classes"] == ATTRIBUTES
    assert sum(row["count"] for row in found["per_class"]) == 2 * found["count"] == 48
    trained = json.loads((several / "model.json").read_text())["extra"]["metrics"]
    assert found["mAP"] == pytest.approx(trained["mAP"]) and found["loss"] == pytest.approx(trained["loss"])
    whole = json.loads(run("evaluate", several, "--data", attributes, "--json", "--split", "all").out)
    assert whole["count"] == 24 + 36


def test_evaluation_prints_the_figures_of_each_class(run, several, attributes):
    heading, *rows, last = run("evaluate", several, "--data", attributes, "--per-class").out.splitlines()
    assert heading.split() == ["class", "average", "precision", "F1", "images"]
    assert sorted(row.split()[0] for row in rows) == ATTRIBUTES
    assert last.startswith("* mAP ")


def test_what_only_images_of_one_class_have_is_refused(refused, several, attributes):
    message = refused("evaluate", several, "--data", attributes, "--calibration")
    assert "images of several classes, for which --calibration says nothing" in message


def test_compression_compares_the_figures_of_several_classes(run, several, attributes, tmp_path):
    out = tmp_path / "smaller"
    outcome = run(
        "compress", several, "--edit", "fold_norms", "--data", attributes, "--repeats", 6, "--force", "--out", out
    )
    assert outcome.status == 0 and "top-1" not in outcome.out
    extra = json.loads((out / "model.json").read_text())["extra"]
    found = json.loads(run("evaluate", out, "--data", attributes, "--json").out)
    assert found["mAP"] == pytest.approx(extra["metrics"]["mAP"]), "the list is one of several classes without a run"
    assert found["mAP"] == pytest.approx(extra["compression"]["rows"][0]["score"])


def test_a_prediction_names_every_class_that_is_probable_enough(run, several, attributes):
    photo = next(path for path in attributes.parent.glob("val/*/*.jpg"))
    model = leanformer.load(several)
    assert model.multi_label
    probabilities = model(prepare(Image.open(photo), model.preprocess)[None]).sigmoid()[0].tolist()
    whole = sorted(zip(ATTRIBUTES, probabilities, strict=True), key=lambda pair: -pair[1])
    middle = (whole[2][1] + whole[3][1]) / 2
    for threshold, count in ((0, 6), (middle, 3), (None, sum(p >= 0.5 for p in probabilities))):
        more = [] if threshold is None else ["--threshold", threshold]
        named = json.loads(run("predict", several, photo, "--json", *more).out)[str(photo)]
        assert [(item["class"], item["probability"]) for item in named] == [
            (name, pytest.approx(p)) for name, p in whole[:count]
        ]
    assert leanformer.predict(several, photo, threshold=0.0) == [(name, pytest.approx(p)) for name, p in whole]
    assert len(leanformer.predict(model, photo, top=2, threshold=0.0)) == 2
    assert run("predict", several, photo, "--threshold", 1).out == f"{photo}: no class is probable enough\n"


def test_a_threshold_that_is_no_probability_is_refused(refused, several, photo):
    assert "--threshold must be a probability, 0 to 1, got 50" in refused("predict", several, photo, "--threshold", 50)


def test_records_from_before_there_were_several_classes_are_of_one(trained, several, tmp_path):
    for run, expected in ((trained.out, False), (several, True)):
        record = json.loads((run / "model.json").read_text())
        assert record.pop("multi_label") is expected
        (tmp_path / "model.json").write_text(json.dumps(record))
        (tmp_path / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
        assert leanformer.load(tmp_path).multi_label is False


@pytest.mark.extras
def test_an_exported_file_knows_that_images_have_several_classes(run, several, attributes, tmp_path):
    pytest.importorskip("onnxruntime")
    file = tmp_path / "several.onnx"
    assert run("export", several, "--out", file).status == 0
    photo = next(path for path in attributes.parent.glob("val/*/*.jpg"))
    by_file, by_run = (leanformer.predict(model, photo, threshold=0.0) for model in (file, several))
    assert by_file == [(name, pytest.approx(p, abs=1e-5)) for name, p in by_run]
    ours, theirs = (
        json.loads(run("evaluate", model, "--data", attributes, "--json").out)["mAP"] for model in (file, several)
    )
    assert ours == pytest.approx(theirs)


@pytest.mark.parametrize("views", ["flip", "five", "ten"])
def test_views_change_the_scores_and_not_the_images(run, trained, photos, several, attributes, views):
    for model, data in ((trained.out, photos), (several, attributes)):
        plain, viewed = (
            json.loads(run("evaluate", model, "--data", data, "--json", *more).out) for more in ((), ("--views", views))
        )
        assert plain["count"] == viewed["count"] and set(plain) == set(viewed)
        assert plain["loss"] != viewed["loss"]
