"""Exported ONNX files compute what their model does, say what they are, and fail loudly when they do not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from leanformer.errors import ExportError
from leanformer.export import Onnx, OnnxClassifier, export_model
from leanformer.export.verify import compare_outputs, fixed_images
from leanformer.models.preprocess import Preprocess

pytestmark = pytest.mark.extras
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

SIZE = (20, 12)


class Small(nn.Module):
    """Convolution, norm and linear layer: the smallest thing that looks like a classifier."""

    def __init__(self, norm: nn.Module | None = None, num_classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.norm = norm or nn.Identity()
        self.head = nn.Linear(8, num_classes)

    def describe(self, classes: tuple[str, ...], preprocess: Preprocess) -> None:
        """Carry what a classifier carries."""
        self.name = "small"
        self.classes = classes
        self.preprocess = preprocess
        self.edits: list[object] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(tokens).mean(dim=1))


class RootMeanSquare(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


class AlteredAfterTracing(Small):
    """Computes something else in eager mode than in the traced program."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = super().forward(images)
        return out if torch.compiler.is_exporting() else out + 0.01 * out.abs().max()


class BranchesOnValues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory):
    """A small model with everything a classifier carries, and its exported file."""
    torch.manual_seed(0)
    model = Small(nn.LayerNorm(8)).train()
    model.describe(
        ("ankle boot", "bag", "<script>", "dress", "été"), Preprocess(image_size=SIZE, crop=1.0, fit="squash")
    )
    path = tmp_path_factory.mktemp("export") / "made" / "model.onnx"
    return SimpleNamespace(model=model, path=path, report=export_model(model, path, image_size=SIZE))


def test_an_exported_file_gives_the_outputs_of_the_model(described):
    images = fixed_images(7, SIZE)
    with torch.inference_mode():
        expected = described.model.eval()(images)
    torch.testing.assert_close(OnnxClassifier(described.path)(images), expected, rtol=1e-5, atol=1e-6)


def test_the_report_says_what_was_written_and_how_it_compares(described):
    report = described.report
    assert report.verification.passed and report.verification.num_images == 6
    assert report.size_bytes == described.path.stat().st_size
    assert report.graph.nodes["Conv"] == 1 and int(report.graph.title.removeprefix("ONNX opset ")) >= 18
    assert "top-1 agreement 100.0%" in "\n".join(report.lines())


def test_everything_is_in_one_file(described):
    assert [file.name for file in described.path.parent.iterdir()] == ["model.onnx"]


def test_the_file_describes_itself(described):
    classifier = OnnxClassifier(described.path)
    assert classifier.classes == described.model.classes
    assert classifier.preprocess == described.model.preprocess
    assert classifier.name == "small"
    assert classifier.image_size == SIZE


def test_the_file_holds_no_path_of_this_machine(described):
    assert str(Path(__file__).parent).encode() not in described.path.read_bytes()


def test_exporting_leaves_every_module_in_its_own_mode(tmp_path):
    model = Small(nn.Dropout(0.5)).train()
    model.norm.eval()
    export_model(model, tmp_path / "a.onnx", image_size=SIZE)
    assert model.training and model.stem.training and not model.norm.training


def test_nothing_is_printed(tmp_path, capsys):
    export_model(Small(), tmp_path / "a.onnx", image_size=SIZE)
    out, err = capsys.readouterr()
    assert out == "" and err == ""


def test_a_file_of_one_batch_size_still_takes_many_images(tmp_path):
    model = Small().eval()
    report = export_model(model, tmp_path / "a.onnx", image_size=SIZE, dynamic_batch=False)
    assert report.verification.num_images == 6
    images = fixed_images(3, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(OnnxClassifier(tmp_path / "a.onnx")(images), model(images), rtol=1e-5, atol=1e-6)


def test_the_opset_can_be_chosen(tmp_path):
    report = export_model(Small(), tmp_path / "a.onnx", image_size=SIZE, format=Onnx(opset=18))
    assert report.graph.title == "ONNX opset 18"


@pytest.mark.parametrize(
    ("norm", "count"),
    [
        (nn.Identity(), 0),
        (nn.LayerNorm(8), 1),
        (RootMeanSquare(), 1),
        (nn.Sequential(nn.LayerNorm(8), nn.LayerNorm(8)), 2),
    ],
    ids=["none", "layer norm", "spelt out", "two"],
)
def test_norm_nodes_are_counted_and_mean_pooling_is_not_one(tmp_path, norm, count):
    report = export_model(Small(norm), tmp_path / "a.onnx", image_size=SIZE)
    assert report.graph.num_norms == count


def test_a_file_that_computes_something_else_fails_and_is_kept_apart(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "a.onnx"
    path.write_text("the file before")
    with pytest.raises(ExportError, match=r"max difference \d\.\d+e-\d+ .* kept as .*a\.onnx\.unverified"):
        export_model(AlteredAfterTracing(), path, image_size=SIZE)
    assert path.read_text() == "the file before"
    assert (tmp_path / "a.onnx.unverified").stat().st_size > 1000
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "a.onnx.unverified"]


def test_a_module_that_cannot_be_traced_is_named(tmp_path):
    model = Small(nn.Sequential(nn.Identity(), BranchesOnValues()))
    with pytest.raises(ExportError, match=r"module 'norm\.1' \(BranchesOnValues\) cannot be exported"):
        export_model(model, tmp_path / "a.onnx", image_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ExportError, match="is a folder; give the path of a file"):
        export_model(Small(), tmp_path, image_size=SIZE)
    (tmp_path / "notes").write_text("a file")
    with pytest.raises(ExportError, match=r"notes/a\.onnx: could not be written \((File exists|Not a directory)\)"):
        export_model(Small(), tmp_path / "notes" / "a.onnx", image_size=SIZE)
    assert [file.name for file in tmp_path.iterdir()] == ["notes"]


def test_a_full_disk_leaves_the_file_before(tmp_path):
    resource = pytest.importorskip("resource", reason="limits of a process are those of POSIX systems")
    path = tmp_path / "a.onnx"
    path.write_text("the file before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ExportError, match=r"a\.onnx: could not be written \(File too large\)"):
            export_model(Small(), path, image_size=SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]
    assert path.read_text() == "the file before"


def test_images_of_another_size_are_refused_with_both_sizes(described):
    with pytest.raises(ExportError, match=r"model\.onnx takes images of shape \(3, 20, 12\), got \(3, 24, 24\)"):
        OnnxClassifier(described.path)(torch.zeros(1, 3, 24, 24))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ExportError, match="nothing.onnx: there is no such file"):
        OnnxClassifier(tmp_path / "nothing.onnx")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "damaged.onnx").write_bytes(b"not protobuf at all")
    with pytest.raises(ExportError, match=r"damaged\.onnx: onnxruntime cannot open it"):
        OnnxClassifier(tmp_path / "damaged.onnx")


def test_a_file_of_somebody_else_is_refused_with_the_missing_entry(tmp_path, described):
    import onnx

    foreign = onnx.load(str(described.path))
    del foreign.metadata_props[:]
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    with pytest.raises(ExportError, match=r"foreign\.onnx: no 'leanformer\.model' in its metadata"):
        OnnxClassifier(tmp_path / "foreign.onnx")


def test_the_metadata_is_json_that_other_programs_can_read(described):
    import onnx

    held = {entry.key: json.loads(entry.value) for entry in onnx.load(str(described.path)).metadata_props}
    assert held["leanformer.classes"][4] == "été"
    assert held["leanformer.preprocess"]["image_size"] == list(SIZE)


def test_a_nan_never_passes_verification():
    expected = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    assert not compare_outputs(expected * torch.nan, expected, tolerance=1e-4).passed
    assert not compare_outputs(expected, expected * torch.nan, tolerance=1e-4).passed


def test_another_first_class_never_passes_verification_but_a_tie_does():
    expected = torch.tensor([[1.0, 0.9, 0.0]])
    assert compare_outputs(torch.tensor([[0.9, 1.0, 0.0]]), expected, tolerance=0.01).top1_agreement == 0.0
    tied = compare_outputs(torch.tensor([[1.0, 1.00001, 0.0]]), torch.tensor([[1.00001, 1.0, 0.0]]), tolerance=1e-4)
    assert tied.passed and tied.top1_agreement == 1.0


def test_differences_are_relative_to_the_scale_of_the_outputs():
    expected = torch.tensor([[1000.0, 0.0]])
    verification = compare_outputs(expected + 0.05, expected, tolerance=1e-4)
    assert verification.passed and verification.max_diff == pytest.approx(0.05, rel=1e-3)
