"""Files that are damaged, of another model or hostile are refused by name; nothing in them is ever run."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch

import leanformer
from leanformer.models import find
from leanformer.zoo.identify import published_shapes


def published(name: str, folder: Path) -> Path:
    """A file with the published keys and shapes of a model, all zeros that take no room."""
    file = folder / f"{name}.pth"
    shapes = published_shapes(find(name))
    torch.save({"model": {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}}, file)
    return file


class WritesAFile:
    """Unpickling this creates the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(("asked", "given"), [("slab_swin_tiny", "flatten_swin_tiny"), ("deit_tiny", "slab_deit_tiny")])
def test_a_checkpoint_of_another_model_is_named_with_its_first_foreign_key(refused, photo, tmp_path, asked, given):
    file = published(given, tmp_path)
    message = refused("predict", asked, photo, "--weights", file)
    expected, found = published_shapes(find(asked)), published_shapes(find(given))
    first = next(key for key in found if key not in expected)
    assert f"{file}: not a checkpoint of {asked}" in message
    assert re.search(rf"\d+ keys are foreign, first: {re.escape(first)} \(", message)
    assert f"this looks like a checkpoint of {given}; try that name" in message


def test_a_checkpoint_of_no_known_model_is_refused_with_its_keys(refused, photo, tmp_path):
    file = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(8, 3, 3, 3), "fc.bias": torch.zeros(8)}, file)
    message = refused("predict", "deit_tiny", photo, "--weights", file)
    assert "2 keys are foreign, first: conv1.weight (8, 3, 3, 3)" in message
    assert "looks like" not in message


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("command", ["predict", "train"])
def test_a_truncated_checkpoint_is_named(refused, photo, photos, tmp_path, share, command):
    whole = published("deit_tiny", tmp_path)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    rest = [photo] if command == "predict" else ["--data", photos, "--out", tmp_path / "run"]
    message = refused(command, "deit_tiny", *rest, "--weights", cut)
    assert message.startswith("leanformer: cut.pth: not a readable checkpoint (")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("command", ["predict", "evaluate", "export", "compress", "train"])
def test_a_pickle_that_would_run_code_is_refused_by_name_and_not_run(refused, photo, photos, tmp_path, form, command):
    proof, file = tmp_path / "ran", tmp_path / "weights.pth"
    content = {"model": {"cls_token": torch.zeros(1, 1, 192)}, "note": WritesAFile(proof)}
    if form == "plain":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    rest = {
        "predict": [photo],
        "evaluate": ["--data", photos],
        "export": ["--out", tmp_path / "a.onnx"],
        "compress": ["--edit", "fold_norms", "--out", tmp_path / "run"],
        "train": ["--data", photos, "--out", tmp_path / "run"],
    }
    message = refused(command, "deit_tiny", *rest[command], "--weights", file)
    assert re.search(
        r"weights\.pth: reading it would execute code: .*(touch|getattr).*; nothing of it was run", message
    )
    assert not proof.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_the_pickle_of_these_tests_does_run_code_when_it_is_trusted(tmp_path):
    torch.save(WritesAFile(tmp_path / "ran"), tmp_path / "weights.pth")
    torch.load(tmp_path / "weights.pth", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "model.json").unlink(), "has not finished: no model.json yet; continue it with"),
        (lambda run: (run / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda run: cut(run / "model.json"), "model.json: not valid JSON"),
        (lambda run: cut(run / "model.safetensors"), "is not the file that"),
        (lambda run: flip(run / "model.safetensors"), "is not the file that"),
        (lambda run: edit(run / "model.json", format=9), "format 9, written by leanformer"),
        (lambda run: edit(run / "model.json", classes=["one"]), "1 class names for a model of 3 classes"),
        (lambda run: shutil.rmtree(run), "no folder"),
    ],
    ids=["no record", "no weights", "cut record", "cut weights", "one bit", "newer", "classes", "nothing"],
)
def test_a_damaged_run_is_refused_with_the_damage(refused, trained, photo, tmp_path, damage, message):
    broken = tmp_path / "broken"
    shutil.copytree(trained.out, broken)
    damage(broken)
    assert message in refused("predict", broken, photo)
    assert message in refused("bench", broken, "--forms", "eager")


@pytest.mark.parametrize("multi_label", [False, True])
def test_outputs_that_are_no_numbers_are_no_prediction(refused, trained, photo, tmp_path, multi_label):
    model = leanformer.load(trained.out)
    model.multi_label = multi_label
    with torch.no_grad():
        model.head.linear.bias[0] = float("nan")
    leanformer.save(model, tmp_path / "nan")
    assert "1 of the model's 3 outputs are not numbers (nan or inf)" in refused("predict", tmp_path / "nan", photo)


def test_weights_are_not_for_what_brings_its_own(refused, trained, photo, tmp_path):
    message = refused("predict", trained.out, photo, "--weights", tmp_path / "a.pth")
    assert f"{trained.out} is a run directory with weights of its own" in message
    message = refused("predict", tmp_path / "a.onnx", photo, "--weights", tmp_path / "a.pth")
    assert "is an exported file with weights and a shape of its own; leave out --weights" in message


def test_a_model_without_weights_says_where_to_get_them(refused, photo):
    message = refused("predict", "slab_swin_tiny", photo)
    assert re.search(
        r"download slab_swin_tiny\.pth from https://\S+ .*and put it at \S+, .*or give the file \(weights= or "
        r"--weights\)",
        message,
    )
    assert "slab_swin_nano has no published weights; give a file" in refused("predict", "slab_swin_nano", photo)


@pytest.mark.extras
@pytest.mark.parametrize("command", ["predict", "evaluate", "bench"])
def test_an_exported_file_that_is_missing_or_damaged_is_named(refused, photo, photos, tmp_path, command):
    pytest.importorskip("onnxruntime")
    rest = {"predict": [photo], "evaluate": ["--data", photos], "bench": []}[command]
    file = tmp_path / "model.onnx"
    assert f"{file}: there is no such file" in refused(command, file, *rest)
    file.write_bytes(b"no graph")
    assert f"{file}: onnxruntime cannot open it" in refused(command, file, *rest)


def test_an_exported_file_cannot_be_changed(refused, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"a graph")
    for command in (("export", file), ("compress", file, "--edit", "fold_norms"), ("info", file)):
        rest = [] if command[0] == "info" else ["--out", tmp_path / "out.onnx"]
        message = refused(*command, *rest)
        assert "is an exported file, which can only be run and measured; give the run directory" in message


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
