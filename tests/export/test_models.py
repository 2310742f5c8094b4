"""Models of the library export; folding their norms leaves a smaller graph without any."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

import leanformer
import leanformer.zoo  # registers the published variants
from leanformer import edits
from leanformer.bench import count_cost
from leanformer.errors import ConfigError
from leanformer.export import SUFFIXES, NormalizingClassifier, export_model, open_exported
from leanformer.layers.attention import FocusedLinear
from leanformer.layers.norm import ProgressiveNorm
from leanformer.models import ImageClassifier, find

pytestmark = [pytest.mark.extras, pytest.mark.runtimes]
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

runnable = {suffix for suffix, format in SUFFIXES.items() if not format.not_run_here()}
every_format = pytest.mark.parametrize("suffix", sorted(runnable - {".aoti.pt2"}))  # which a compiler makes, slowly


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LEANFORMER_CACHE", str(tmp_path_factory.mktemp("cache")))


def model_with_statistics(name: str, **changes) -> ImageClassifier:
    """A model whose running statistics, if it has any, come from a batch."""
    torch.manual_seed(0)
    model = ImageClassifier(replace(find(name), num_classes=7, **changes), name)
    for module in model.modules():
        if isinstance(module, ProgressiveNorm):
            module.set_scheduled(0.0)
    with torch.no_grad():
        model.train()(torch.randn(3, 3, *model.config.image_grid))
    return model.eval()


@every_format
@pytest.mark.parametrize(
    ("name", "changes"),
    [("deit_nano", {}), ("swin_nano", {}), ("swin_nano", {"attention": FocusedLinear(), "window_size": None})],
    ids=["deit", "swin with shifted windows", "focused attention over the map"],
)
def test_a_model_exports_with_its_name_configuration_and_preprocessing(tmp_path, name, changes, suffix):
    model = model_with_statistics(name, **changes)
    report = export_model(model, tmp_path / f"model{suffix}", image_size=model.config.image_grid)
    exported = open_exported(tmp_path / f"model{suffix}")
    assert report.verification.relative_diff < 1e-5
    assert exported.name == name and exported.preprocess == model.preprocess
    assert exported.metadata.config is not None and exported.metadata.config["num_classes"] == 7


@every_format
def test_a_folded_model_has_a_smaller_graph_without_norms_and_names_its_edit(tmp_path, suffix):
    model = model_with_statistics("slab_swin_nano")
    whole = export_model(model, tmp_path / f"whole{suffix}", image_size=model.config.image_grid)
    images = torch.randn(3, 3, *model.config.image_grid)
    expected = open_exported(tmp_path / f"whole{suffix}")(images)

    edits.apply(model, edits.FoldNorms())
    folded = export_model(model, tmp_path / f"folded{suffix}", image_size=model.config.image_grid)
    exported = open_exported(tmp_path / f"folded{suffix}")
    assert folded.graph.num_norms == 0
    assert sum(folded.graph.nodes.values()) < sum(whole.graph.nodes.values())
    assert [edit["kind"] for edit in exported.metadata.edits] == ["fold_norms"]
    torch.testing.assert_close(exported(images), expected, rtol=1e-4, atol=1e-5)


@every_format
def test_queries_without_features_get_zero_in_every_runtime(tmp_path, suffix):
    """An exporter took the constant that keeps their denominators above zero for zero itself."""
    model = leanformer.build("slab_swin_nano").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("qkv.bias"):
                parameter[: len(parameter) // 3] = -9.0  # no query is left after ReLU
    export_model(model, tmp_path / f"model{suffix}", image_size=64)
    images = torch.randn(2, 3, 64, 64)
    found = open_exported(tmp_path / f"model{suffix}")(images)
    torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-5)


def test_folding_costs_no_parameters_and_no_multiplications():
    model = model_with_statistics("slab_swin_nano")
    before = count_cost(model, model.config.image_grid)
    edits.apply(model, edits.FoldNorms())
    after = count_cost(model, model.config.image_grid)
    assert after.macs == before.macs and after.parameters < before.parameters


@every_format
def test_an_exported_file_loads_and_predicts_like_its_model(tmp_path, suffix):
    path = tmp_path / f"nano{suffix}"
    model = leanformer.build("slab_swin_nano", num_classes=3).eval()
    model.set_classes(("ant", "bee", "cat"))
    export_model(model, path, image_size=64)
    loaded = leanformer.load(path)
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(loaded(images), model(images), rtol=1e-4, atol=1e-4)
    picture = Image.new("RGB", (80, 70), (200, 30, 90))
    expected = leanformer.predict(model, picture)
    for name, probability in leanformer.predict(str(path), picture):
        assert probability == pytest.approx(dict(expected)[name], abs=1e-4)
    with pytest.raises(ConfigError, match="exported file with weights and a shape of its own; leave out image_size"):
        leanformer.load(path, image_size=32)


def test_names_of_exported_files_are_known_where_models_are_named():
    from leanformer.zoo.resolve import EXPORTED

    assert frozenset(SUFFIXES) == EXPORTED


@every_format
def test_a_file_may_normalize_its_images_itself(tmp_path, suffix):
    model = leanformer.build("deit_nano", image_size=16, patch_size=8, depth=1, num_classes=3).eval()
    model.set_classes(("ant", "bee", "cat"))
    path = tmp_path / f"model{suffix}"
    export_model(NormalizingClassifier(model), path, image_size=16)
    exported = open_exported(path)
    assert exported.preprocess.std == (1.0, 1.0, 1.0) and exported.classes == model.classes
    assert model.preprocess.std != (1.0, 1.0, 1.0)
    picture = Image.new("RGB", (20, 20), (200, 30, 90))
    expected = dict(leanformer.predict(model, picture))
    assert dict(leanformer.predict(path, picture)) == pytest.approx(expected, abs=1e-5)
