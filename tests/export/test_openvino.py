"""OpenVINO files compute what their model does, hold nothing of this machine, and fail loudly."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import leanformer
from leanformer.edits import MergeTokens, RemoveAttention
from leanformer.errors import ExportError
from leanformer.export import OpenVinoClassifier, export_model, open_exported
from leanformer.export.verify import fixed_images

pytestmark = [pytest.mark.extras, pytest.mark.runtimes]


@pytest.fixture(scope="module")
def path(small, tmp_path_factory):
    file = tmp_path_factory.mktemp("openvino") / "a folder" / "model.xml"
    export_model(small, file, image_size=(24, 16))
    return file


def test_a_file_gives_the_outputs_of_the_model_for_any_number_of_images(small, path):
    exported = open_exported(path, threads=1)
    assert isinstance(exported, OpenVinoClassifier) and exported.threads == 1
    for count in (1, 5):
        images = fixed_images(count, (24, 16))
        with torch.inference_mode():
            torch.testing.assert_close(exported(images), small(images), rtol=1e-5, atol=1e-6)


def test_results_of_one_call_are_not_overwritten_by_the_next(path):
    exported = open_exported(path)
    first = exported(fixed_images(2, (24, 16)))
    kept = first.clone()
    exported(fixed_images(2, (24, 16)) + 1)
    assert torch.equal(first, kept)


def test_the_graph_and_the_weights_lie_side_by_side_and_describe_themselves(path, small):
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.bin", "model.xml"]
    exported = open_exported(path)
    assert exported.classes == small.classes and exported.preprocess == small.preprocess
    assert exported.batch_size is None and exported.image_size == (24, 16)
    text = path.read_text()
    assert "/tmp" not in text and str(path.parent) not in text and "site-packages" not in text


def test_the_report_names_format_nodes_and_norms(small, tmp_path):
    report = export_model(small, tmp_path / "model.xml", image_size=(24, 16))
    assert report.graph.title == "OpenVINO IR"
    assert report.graph.nodes["ScaledDotProductAttention"] == 1
    assert report.graph.num_norms == 3
    assert report.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_a_file_of_one_batch_size_takes_parts_of_it(small, tmp_path):
    export_model(small, tmp_path / "one.xml", image_size=(24, 16), dynamic_batch=False)
    exported = open_exported(tmp_path / "one.xml")
    assert exported.batch_size == 1
    images = fixed_images(3, (24, 16))
    with torch.inference_mode():
        torch.testing.assert_close(exported(images), small(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "edit", [MergeTokens(r=3), RemoveAttention(blocks=(1,))], ids=["merged tokens", "removed attention"]
)
def test_edited_models_export_too(edit, tmp_path):
    torch.manual_seed(0)
    model = leanformer.build("deit_nano", image_size=32, patch_size=8, depth=2, num_classes=3)
    edit.apply(model)
    report = export_model(model, tmp_path / "model.xml", image_size=32)
    assert report.verification.relative_diff < 1e-5


def test_coarser_computation_is_a_choice_of_who_opens_the_file(path, small):
    images = fixed_images(4, (24, 16))
    coarse = OpenVinoClassifier(path, precision="bf16")(images)
    with torch.inference_mode():
        torch.testing.assert_close(coarse, small(images), rtol=0.1, atol=0.05)


def test_a_missing_damaged_or_foreign_file_is_named(tmp_path, path):
    with pytest.raises(ExportError, match=r"nothing\.xml: there is no such file"):
        open_exported(tmp_path / "nothing.xml")
    (tmp_path / "damaged.xml").write_text("<net")
    (tmp_path / "damaged.bin").write_bytes(b"")
    with pytest.raises(ExportError, match=r"damaged\.xml: OpenVINO cannot open it"):
        open_exported(tmp_path / "damaged.xml")
    (tmp_path / "alone.xml").write_bytes(path.read_bytes())
    with pytest.raises(ExportError, match=r"alone\.bin: there is no such file"):
        open_exported(tmp_path / "alone.xml")
    import openvino

    foreign = openvino.Core().read_model(path)
    del foreign.rt_info["leanformer"]
    openvino.save_model(foreign, tmp_path / "foreign.xml")
    with pytest.raises(ExportError, match=r"foreign\.xml: no 'leanformer\.model' in its metadata"):
        open_exported(tmp_path / "foreign.xml")


def test_a_file_that_computes_something_else_leaves_the_one_before_and_its_weights(small, path):
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(ExportError, match=r"kept as .*model\.xml\.unverified"):
        export_model(small, path, image_size=(24, 16), tolerance=-1.0)
    after = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == ["model.bin.unverified", "model.xml.unverified"]


def test_an_end_that_is_no_format_names_those_that_are(small, tmp_path):
    with pytest.raises(ExportError, match=r"model\.onx: .* \.onnx \(onnx\), \.xml \(openvino\)"):
        export_model(small, tmp_path / "model.onx", image_size=(24, 16))


def test_the_metadata_is_json_that_other_programs_can_read(path):
    import openvino

    held = openvino.Core().read_model(path).get_rt_info(["leanformer", "classes"]).astype(str)
    assert json.loads(held)[1:] == ["<bee> & 'wasp'", "été"]


EXPORT = """
import sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
import leanformer
from leanformer.export import export_model
export_model(leanformer.build("deit_nano", depth=1).eval(), "model.xml", image_size=16)
print(*sorted(set(seen) & {"os.fork", "socket.connect", "socket.getaddrinfo", "urllib.Request"}))
"""


def test_an_export_calls_nobody(tmp_path):
    done = subprocess.run([sys.executable, "-c", EXPORT], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
