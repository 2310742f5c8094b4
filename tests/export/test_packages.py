"""torch's own packages compute what their model does, and run no code of strangers."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest
import torch

import leanformer
from leanformer.errors import ExportError
from leanformer.export import PackageClassifier, export_model, open_exported
from leanformer.export.verify import fixed_images

both = pytest.mark.parametrize("end", [".pt2", pytest.param(".aoti.pt2", marks=pytest.mark.slow)])  # a compiler runs


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LEANFORMER_TRUST", raising=False)


@both
def test_a_package_takes_any_number_of_images_and_describes_itself(end, small, tmp_path):
    path = tmp_path / f"model{end}"
    report = export_model(small, path, image_size=(24, 16))
    assert report.graph.num_norms == 3 and report.graph.nodes["layer_norm"] == 3
    exported = leanformer.load(path)
    assert isinstance(exported, PackageClassifier)
    assert exported.classes == small.classes and exported.preprocess == small.preprocess
    assert exported.batch_size is None and exported.image_size == (24, 16)
    images = fixed_images(5, (24, 16))
    with torch.inference_mode():
        torch.testing.assert_close(exported(images), small(images), rtol=1e-5, atol=1e-6)


@both
def test_a_package_of_somebody_else_is_opened_only_if_it_is_trusted(end, small, tmp_path, monkeypatch):
    path = tmp_path / f"model{end}"
    export_model(small, path, image_size=(24, 16), dynamic_batch=False)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr("torch.export.load", lambda *_: pytest.fail("its code was run"))
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda *_: pytest.fail("its code was run"))
    with pytest.raises(ExportError, match=r"was not exported here, and opening it runs code.*LEANFORMER_TRUST=1"):
        open_exported(path)
    monkeypatch.undo()
    monkeypatch.setenv("LEANFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LEANFORMER_TRUST", "1")
    assert open_exported(path).batch_size == 1


def test_a_traced_program_holds_no_paths_of_this_machine(small, tmp_path):
    export_model(small, tmp_path / "model.pt2", image_size=(24, 16))
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        assert not any(b"site-packages" in archive.read(name) for name in archive.namelist())


@pytest.mark.slow
def test_a_library_for_another_processor_is_named(small, tmp_path, monkeypatch):
    path = tmp_path / "model.aoti.pt2"
    export_model(small, path, image_size=(24, 16))
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.pick_vec_isa", lambda: "sse2")
    with pytest.raises(ExportError, match=r"was compiled for \w+ with .*; this processor is \w+ with SSE2"):
        open_exported(path)


@pytest.mark.parametrize("end", [".pt2", ".aoti.pt2"])
def test_a_missing_damaged_or_foreign_package_is_named(end, tmp_path):
    with pytest.raises(ExportError, match=r"nothing\.\w+.*: there is no such file"):
        open_exported(tmp_path / f"nothing{end}")
    (tmp_path / f"damaged{end}").write_bytes(b"PK")
    with pytest.raises(ExportError, match=r"damaged\..*: torch cannot open it"):
        open_exported(tmp_path / f"damaged{end}")
    with zipfile.ZipFile(tmp_path / f"foreign{end}", "w") as archive:
        archive.writestr("foreign/extra/notes.json", json.dumps({}))
    with pytest.raises(ExportError, match=r"foreign\..*: no 'leanformer\.model' in its metadata"):
        open_exported(tmp_path / f"foreign{end}")
