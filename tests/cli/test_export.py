"""`leanformer export`: formats by the end of the name, and int8 that is held to an accuracy."""

from __future__ import annotations

import pytest

import leanformer
from leanformer.data.synthetic import write_folder

pytestmark = [pytest.mark.extras, pytest.mark.runtimes]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A small model of two classes, in a directory, and images of both."""
    folder = tmp_path_factory.mktemp("stored")
    data = write_folder(folder / "data", num_classes=2, per_class=8, num_val=4)
    model = leanformer.build("deit_nano", image_size=16, patch_size=8, depth=1, num_classes=2)
    model.set_classes(tuple(sorted(path.name for path in (data / "train").iterdir() if path.is_dir())))
    leanformer.save(model, folder / "run")
    return folder / "run", data


def test_a_file_is_compared_on_real_images_and_may_normalize_them(run, stored, tmp_path):
    model, data = stored
    out = tmp_path / "model.xml"
    outcome = run("export", model, "--out", out, "--data", data, "--normalize-inside")
    assert outcome.status == 0, outcome.err
    assert "OpenVINO IR" in outcome.out and "on 14 images" in outcome.out  # 6 fixed ones, 8 of the data
    assert leanformer.load(out).preprocess.mean == (0.0, 0.0, 0.0)


def test_int8_says_what_it_cost(run, stored, tmp_path):
    pytest.importorskip("nncf")
    model, data = stored
    settings = ("--int8", "--data", data, "--max-drop", 100, "--calibration-images", 8)
    outcome = run("export", model, "--out", tmp_path / "model.xml", *settings)
    assert outcome.status == 0, outcome.err
    assert "6 of 6 layers in int8; none in float" in outcome.out and "on 8 images" in outcome.out
    assert "CUDA" not in outcome.err


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.xml", ("--int8",), "int8 needs images: add --data"),
        ("model.onnx", ("--int8", "--data", "DATA"), r"int8 files are OpenVINO's, whose names end in .xml"),
        ("model.xml", ("--int8", "--data", "DATA", "--calibration-images", 0), "--calibration-images must be at least"),
        ("model.pt", (), "exported files are known by the end of their name: .onnx (onnx), .xml (openvino)"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(run, stored, tmp_path, name, options, message):
    model, data = stored
    given = [data if option == "DATA" else option for option in options]
    outcome = run("export", model, "--out", tmp_path / name, *given)
    assert outcome.status == 2 and message in outcome.err
    assert list(tmp_path.iterdir()) == []
