"""A model's folder gives back the same model, edits included, or says why it does not."""

import errno
import json
import os
from dataclasses import replace

import pytest
import torch

import leanformer.zoo  # noqa: F401 - registers the models
from leanformer import edits
from leanformer.checkpoints import files, runs
from leanformer.errors import CheckpointError
from leanformer.layers.norm import LayerNorm, Norms, ProgressiveNorm, RepBatchNorm, RepBN
from leanformer.models import ImageClassifier, Preprocess, find

IMAGES = torch.linspace(-2, 2, 3 * 3 * 64 * 64).view(3, 3, 64, 64)


def nano(name: str = "slab_swin_nano", **changes) -> ImageClassifier:
    """A small model whose running statistics and progress are those of a finished training."""
    torch.manual_seed(0)
    model = ImageClassifier(replace(find(name), num_classes=7, **changes), name)
    model.train()(torch.randn(3, 3, 64, 64))
    for module in model.modules():
        if isinstance(module, ProgressiveNorm):
            module.set_scheduled(0.0)
    return model.eval()


def edit_record(directory, **changes) -> None:
    record = json.loads((directory / "model.json").read_text())
    (directory / "model.json").write_text(json.dumps({**record, **changes}))


@pytest.mark.parametrize("name", ["slab_swin_nano", "swin_nano", "deit_nano"])
def test_a_model_comes_back_as_it_was(tmp_path, name):
    model = nano(name)
    model.set_classes(tuple("abcdefg"))
    model.preprocess = Preprocess(image_size=(64, 64), crop=0.9, fit="squash")
    model.origin = {"from": "somewhere.pth", "license": None}
    runs.save(model, tmp_path / "new" / "run", extra={"metrics": {"top1": 81.5}})
    loaded = runs.load(tmp_path / "new" / "run")
    assert not loaded.training
    assert (loaded.name, loaded.config, loaded.classes) == (name, model.config, tuple("abcdefg"))
    assert (loaded.preprocess, loaded.origin, loaded.edits) == (model.preprocess, model.origin, [])
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert runs.read_record(tmp_path / "new" / "run")["extra"] == {"metrics": {"top1": 81.5}}


@pytest.mark.parametrize("changes", [{}, {"window_size": 5}], ids=["whole map", "padded windows"])
def test_edits_are_replayed(tmp_path, changes):
    model = nano(**changes)
    edits.apply(model, edits.FoldNorms())
    runs.save(model, tmp_path)
    loaded = runs.load(tmp_path)
    assert loaded.edits == model.edits
    assert not any(isinstance(module, RepBatchNorm) for module in loaded.modules())
    assert torch.equal(loaded(IMAGES), model(IMAGES))


def test_an_unnamed_model_is_saved_by_its_config(tmp_path):
    config = replace(find("swin_nano"), norms=Norms(block=RepBN(), final=LayerNorm(eps=1e-6)), image_size=(32, 64))
    model = ImageClassifier(config).eval()
    runs.save(model, tmp_path)
    loaded = runs.load(str(tmp_path))
    assert loaded.name is None and loaded.config == config
    assert torch.equal(loaded(IMAGES[:, :, :32]), model(IMAGES[:, :, :32]))


def test_saving_and_loading_leave_the_random_numbers_alone(tmp_path):
    model = nano()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    runs.save(model, tmp_path)
    runs.load(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_equal_models_are_equal_bytes(tmp_path):
    for name in "ab":
        runs.save(nano(), tmp_path / name)
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_structure_that_no_edit_records_is_refused_before_anything_is_written(tmp_path):
    model = nano()
    model.add_module("head", torch.nn.Identity())
    with pytest.raises(
        CheckpointError, match=r"not what its config and its edits build\n  \d+ nothing fills:\n    head\."
    ):
        runs.save(model, tmp_path / "run")
    with pytest.raises(CheckpointError, match="save it in float32"):
        runs.save(nano().half(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_survives_a_save_over_it_that_fails(tmp_path, monkeypatch):
    first = nano()
    runs.save(first, tmp_path)
    replaced = os.replace

    def fail_for_the_record(source, target):
        if str(target).endswith("model.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replaced(source, target)

    monkeypatch.setattr(os, "replace", fail_for_the_record)
    other = nano()
    torch.nn.init.ones_(next(other.parameters()))
    with pytest.raises(CheckpointError, match="No space left"):
        runs.save(other, tmp_path)
    monkeypatch.undo()
    assert torch.equal(runs.load(tmp_path)(IMAGES), first(IMAGES))
    for saved in (other, first, other):
        runs.save(saved, tmp_path)
        assert torch.equal(runs.load(tmp_path)(IMAGES), saved(IMAGES))
        assert len(list(tmp_path.iterdir())) == 2


def test_damaged_or_missing_weights_are_named(tmp_path):
    runs.save(nano(), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not the file"):
        runs.load(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        runs.load(tmp_path)


def test_weights_of_another_model_are_listed(tmp_path):
    runs.save(nano(), tmp_path)
    digest = files.write_safetensors(tmp_path / "model.safetensors", {"head.linear.weight": torch.zeros(3, 96)})
    edit_record(tmp_path, weights={"file": "model.safetensors", "sha256": digest, "origin": {}})
    with pytest.raises(CheckpointError, match=r"does not fit the model(?s:.*)head\.linear\.weight is \(3, 96\)"):
        runs.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 2, "leanformer": "9.1"}, r"format 2, written by leanformer 9\.1; .* reads format 1"),
        ({"clases": []}, r"unknown field 'clases'; did you mean classes"),
        ({"config": {"kind": "swim"}}, r"unknown kind 'swim'; did you mean swin"),
        ({"config": {"kind": "swin", "dpeths": [1]}}, "no field 'dpeths'"),
        ({"config": {"kind": "fold_norms"}}, "kind 'fold_norms' is not a BackboneConfig"),
        ({"edits": [{"kind": "fold_worms"}]}, r"edits\[0\]: unknown kind 'fold_worms'; did you mean fold_norms"),
        ({"edits": {}}, "'edits' must be a list"),
        ({"classes": ["a", "b"]}, "2 class names for a model of 7 classes"),
        ({"classes": 3}, "written by leanformer"),
        ({"weights": {"file": 3}}, "'file' must be a str"),
        ({"weights": []}, "'weights' must be a dict"),
        ({"preprocess": {"kind": "preprocess", "crop": 2.0}}, r"crop must be in \(0, 1\]"),
    ],
)
def test_a_record_that_cannot_be_read_says_where(tmp_path, changes, match):
    runs.save(nano(), tmp_path)
    edit_record(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=rf"model\.json(?s:.*){match}"):
        runs.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b"[]", b"{}", b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_record_is_named(tmp_path, content):
    runs.save(nano(), tmp_path)
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.json: (not valid JSON|not a model record|missing leanformer)"):
        runs.load(tmp_path)


def test_a_folder_without_a_model_says_what_it_is(tmp_path):
    with pytest.raises(CheckpointError, match="no folder"):
        runs.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no model: no model\.json"):
        runs.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="a training run that has not finished"):
        runs.load(tmp_path)
