"""int8 files keep the accuracy that was asked for, and say which layers that cost."""

from __future__ import annotations

import pytest
import torch

import leanformer
from leanformer.errors import ExportError
from leanformer.export import ExportedClassifier, Score, export_int8, open_exported

pytestmark = [pytest.mark.extras, pytest.mark.runtimes]

SIZE = 16


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    built = leanformer.build("deit_nano", image_size=SIZE, patch_size=8, depth=1, dim=32, num_heads=2, num_classes=4)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    built.set_classes(("a", "b", "c", "d"))
    return built.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(96, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def score(model, images):
    """How often a classifier says what the model says."""
    with torch.inference_mode():
        labels = model(images).argmax(dim=1)
    assert len(labels.unique()) > 2

    def agreement(classifier) -> Score:
        with torch.inference_mode():
            right = (classifier(images).argmax(dim=1) == labels).float()
        return Score(right.mean().item(), right.tolist())

    return agreement


def test_every_layer_is_quantised_where_the_accuracy_allows_it(model, images, score, tmp_path):
    report = export_int8(
        model, tmp_path / "model.xml", image_size=SIZE, calibration=images[:32].split(1), score=score, max_drop=20.0
    )
    assert len(report.layers) == 6 and report.float_layers == ()
    assert report.before == 1.0 and 0.8 <= report.after <= 1.0 and report.num_images == 96
    exported = open_exported(tmp_path / "model.xml")
    assert exported.classes == model.classes and exported.batch_size is None
    assert score(exported).value == report.after
    differences = (exported(images) - model(images)).abs().max() / model(images).abs().max()
    assert 1e-4 < differences < 0.3
    assert "6 of 6 layers in int8; none in float" in report.lines()[1]


def test_layers_stay_in_float_where_the_accuracy_asks_for_it(model, images, tmp_path):
    with torch.inference_mode():
        expected = model(images)

    def nearness(classifier) -> Score:
        with torch.inference_mode():
            far = (classifier(images) - expected).abs().amax(dim=1) / expected.abs().max()
        each = (1.0 - 5.0 * far).clamp(min=0.0)
        return Score(each.mean().item(), each.tolist())

    settings = {"image_size": SIZE, "calibration": images[:32].split(1), "score": nearness}
    whole = export_int8(model, tmp_path / "whole.xml", max_drop=100.0, **settings)
    assert whole.float_layers == () and 0.2 < whole.after < 0.99
    half = 50 * (1.0 - whole.after)
    report = export_int8(model, tmp_path / "part.xml", max_drop=half, **settings)
    assert 100 * (1.0 - report.after) <= half
    assert 0 < len(report.float_layers) < 6
    assert set(report.float_layers) <= {name for name, _ in model.named_modules()}
    assert f"in float: {report.float_layers[0]}" in report.lines()[1]
    assert nearness(open_exported(tmp_path / "part.xml")).value == pytest.approx(report.after, abs=1e-6)


def test_a_file_that_loses_more_is_kept_apart(model, images, score, tmp_path):
    (tmp_path / "model.xml").write_text("the file before")

    def hopeless(classifier) -> Score:
        found = score(classifier)
        return Score(0.0, [0.0] * 96) if isinstance(classifier, ExportedClassifier) else found

    with pytest.raises(ExportError, match=r"in int8 loses 100\.00 points, more than 0\.5; kept as .*\.unverified"):
        export_int8(model, tmp_path / "model.xml", image_size=SIZE, calibration=images[:8].split(1), score=hopeless)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["model.bin.unverified", "model.xml", "model.xml.unverified"]
    assert (tmp_path / "model.xml").read_text() == "the file before"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"path": "model.onnx"}, r"model\.onnx: int8 files are OpenVINO's, whose names end in \.xml"),
        ({"calibration": ()}, "there are no calibration images"),
        ({"max_drop": -1.0}, r"max_drop must be 0 or more points, got -1\.0"),
    ],
)
def test_what_cannot_be_quantised_is_refused(model, images, score, tmp_path, changed, message):
    settings = {"path": "model.xml", "calibration": images[:2].split(1), "max_drop": 0.5, **changed}
    with pytest.raises(ExportError, match=message):
        export_int8(model, tmp_path / settings.pop("path"), image_size=SIZE, score=score, **settings)
    assert list(tmp_path.iterdir()) == []
