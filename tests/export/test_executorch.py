"""ExecuTorch programs compute what their model does, in their own runtime, and fail loudly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanformer
from leanformer.edits import MergeTokens, RemoveAttention
from leanformer.errors import ExportError
from leanformer.export import ExecuTorchClassifier, export_model, open_exported
from leanformer.export.program import stable_sort
from leanformer.export.verify import fixed_images

pytestmark = [pytest.mark.extras, pytest.mark.runtimes]
pytest.importorskip("executorch")


@pytest.fixture(scope="module")
def path(small, tmp_path_factory):
    file = tmp_path_factory.mktemp("executorch") / "a folder" / "model.pte"
    export_model(small, file, image_size=(24, 16))
    return file


def test_a_file_takes_any_number_of_images_one_at_a_time_and_describes_itself(small, path):
    exported = open_exported(path, threads=1)
    assert isinstance(exported, ExecuTorchClassifier)
    assert exported.classes == small.classes and exported.preprocess == small.preprocess
    assert exported.batch_size == 1 and exported.image_size == (24, 16)
    images = fixed_images(3, (24, 16))
    with torch.inference_mode():
        torch.testing.assert_close(exported(images), small(images), rtol=1e-5, atol=1e-6)


def test_results_of_one_call_are_not_overwritten_by_the_next(path):
    exported = open_exported(path)
    first = exported(fixed_images(1, (24, 16)))
    kept = first.clone()
    exported(fixed_images(1, (24, 16)) + 1)
    assert torch.equal(first, kept)


def test_the_runtime_has_the_threads_of_the_file_that_was_opened_last(path):
    from executorch.extension.pybindings import portable_lib

    for threads in (1, 2):
        open_exported(path, threads=threads)
        assert portable_lib._threadpool_get_thread_count() == threads


def test_the_report_counts_norms_and_what_xnnpack_takes(small, tmp_path):
    report = export_model(small, tmp_path / "model.pte", image_size=(24, 16))
    assert not report.dynamic_batch
    assert report.graph.num_norms == 3
    assert report.graph.title == f"ExecuTorch, {report.graph.nodes['executorch_call_delegate']} parts in XNNPACK"
    assert report.size_bytes == (tmp_path / "model.pte").stat().st_size


@pytest.mark.parametrize("descending", [True, False])
def test_a_sort_made_of_comparisons_is_stable(descending):
    values = torch.randint(0, 4, (3, 2, 11), generator=torch.Generator().manual_seed(0)).float()
    values[0, 0, 3] = -torch.inf
    found, expected = (sort(values, stable=True, descending=descending) for sort in (stable_sort, torch.sort))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize(
    "edit", [MergeTokens(r=3), RemoveAttention(blocks=(1,))], ids=["merged tokens", "removed attention"]
)
def test_edited_models_export_too(edit, tmp_path):
    torch.manual_seed(0)
    model = leanformer.build("deit_nano", image_size=32, patch_size=8, depth=2, num_classes=3)
    edit.apply(model)
    report = export_model(model, tmp_path / "model.pte", image_size=32)
    assert report.verification.relative_diff < 1e-5


def test_a_missing_damaged_or_foreign_file_is_named(tmp_path, path):
    with pytest.raises(ExportError, match=r"nothing\.pte: there is no such file"):
        open_exported(tmp_path / "nothing.pte")
    whole = path.read_bytes()
    for name, content in (("empty", b""), ("text", b"a program" * 40), ("cut", whole[: len(whole) // 2])):
        (tmp_path / f"{name}.pte").write_bytes(content)
        with pytest.raises(ExportError, match=rf"{name}\.pte: ExecuTorch cannot open it"):
            open_exported(tmp_path / f"{name}.pte")


def test_a_program_of_somebody_else_is_named(tmp_path):
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(nn.Flatten(), (torch.zeros(1, 3, 2, 2),))
    (tmp_path / "foreign.pte").write_bytes(to_edge_transform_and_lower(program).to_executorch().buffer)
    with pytest.raises(ExportError, match=r"foreign\.pte: no 'leanformer\.model' in its metadata"):
        open_exported(tmp_path / "foreign.pte")


class Spectrum(nn.Module):
    def forward(self, images):
        return torch.linalg.svd(images.flatten(2))[1].sum(-1)


def test_a_model_that_cannot_be_expressed_leaves_nothing(tmp_path):
    with pytest.raises(ExportError, match="cannot be expressed in ExecuTorch"):
        export_model(Spectrum(), tmp_path / "model.pte", image_size=8)
    assert list(tmp_path.iterdir()) == []
