"""Core ML packages are written on any machine, describe themselves, and say that a Mac runs them."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import leanformer
from leanformer.edits import MergeTokens, RemoveAttention
from leanformer.errors import ExportError
from leanformer.export import CoreMlClassifier, export_model, open_exported
from leanformer.export.coreml import roll_in_parts

pytestmark = [pytest.mark.extras, pytest.mark.runtimes]
pytest.importorskip("coremltools")
elsewhere = pytest.mark.skipif(sys.platform == "darwin", reason="a Mac runs the packages")


@elsewhere
def test_a_package_describes_itself_and_says_where_it_runs(small, tmp_path):
    path = tmp_path / "a folder" / "model.mlpackage"
    for _ in range(2):  # the second takes the place of the first
        report = export_model(small, path, image_size=(24, 16))
    assert report.verification is None and "no, Core ML runs on a Mac alone" in report.lines()[-1]
    assert report.graph.title == "Core ML program" and report.graph.num_norms == 3
    assert report.size_bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert [file.name for file in path.parent.iterdir()] == ["model.mlpackage"]
    exported = open_exported(path)
    assert isinstance(exported, CoreMlClassifier)
    assert exported.classes == small.classes and exported.preprocess == small.preprocess
    assert (exported.batch_size, *exported.image_size) == (1, 24, 16)
    with pytest.raises(ExportError, match=r"model\.mlpackage: Core ML runs on a Mac alone"):
        exported(torch.zeros(1, 3, 24, 16))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["swin_nano", "slab_swin_nano", "pvt_nano", "pvt_v2_nano", "cswin_nano", "swiftformer_nano", "l2vit_nano"]
)
def test_every_family_converts(name, tmp_path):
    model = leanformer.build(name).eval()
    assert export_model(model, tmp_path / "model.mlpackage", image_size=model.config.image_size).graph.nodes


@pytest.mark.parametrize(
    "edit", [MergeTokens(r=3), RemoveAttention(blocks=(1,))], ids=["merged tokens", "removed attention"]
)
def test_edited_models_convert_too(edit, tmp_path):
    model = leanformer.build("deit_nano", image_size=32, patch_size=8, depth=2, num_classes=3).eval()
    leanformer.apply(model, edit)
    export_model(model, tmp_path / "model.mlpackage", image_size=32)
    assert [held["kind"] for held in open_exported(tmp_path / "model.mlpackage").metadata.edits] == [edit.kind]


class Spectrum(nn.Module):
    def forward(self, images):
        return torch.linalg.svd(images.flatten(2))[1].sum(-1)


def test_a_model_that_cannot_be_expressed_leaves_nothing(tmp_path):
    with pytest.raises(ExportError, match="cannot be expressed in Core ML"):
        export_model(Spectrum(), tmp_path / "model.mlpackage", image_size=8)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_damaged_package_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"nothing\.mlpackage/Manifest\.json: there is no such file"):
        open_exported(tmp_path / "nothing.mlpackage")
    (tmp_path / "damaged.mlpackage").mkdir()
    (tmp_path / "damaged.mlpackage" / "Manifest.json").write_text("{")
    with pytest.raises(ExportError, match=r"damaged\.mlpackage: coremltools cannot open it"):
        open_exported(tmp_path / "damaged.mlpackage")


@pytest.mark.parametrize("shifts", [(-2, 3), (0, 7), (5, -5)])
def test_a_roll_in_parts_is_a_roll(shifts):
    x = torch.arange(60.0).view(1, 5, 4, 3)
    assert torch.equal(roll_in_parts(x, shifts, (1, 2)), x.roll(shifts, (1, 2)))
