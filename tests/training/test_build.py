"""A run's model fits its data, whatever the weights were trained for."""

from dataclasses import replace

import pytest
import torch

from leanformer.checkpoints import files, runs
from leanformer.edits import FoldNorms
from leanformer.errors import CheckpointError, ConfigError
from leanformer.layers.norm import Norms, RepBatchNorm, RepBN
from leanformer.models import ImageClassifier, Preprocess, find
from leanformer.training import ModelSpec
from leanformer.training.build import build_model
from leanformer.zoo.weights import layout_of

CLASSES = ("cat", "dog", "emu")


@pytest.fixture
def nano():
    torch.manual_seed(0)
    return ImageClassifier(replace(find("deit_nano"), num_classes=11), "deit_nano")


@pytest.fixture
def published_file(nano, tmp_path):
    path = tmp_path / "published.safetensors"
    files.write_safetensors(path, layout_of(nano.config).map_for(nano.config).to_published(nano.state_dict()))
    return path


def test_the_number_of_classes_and_their_names_come_from_the_data():
    model = build_model(ModelSpec(name="deit_nano", overrides=(("image_size", 32),)), CLASSES)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert (model.classes, model.preprocess.image_size) == (CLASSES, (32, 32))


def test_a_published_file_fills_everything_but_a_classifier_for_other_classes(nano, published_file):
    model = build_model(ModelSpec(name="deit_nano", weights=str(published_file)), CLASSES)
    assert model.head.linear.out_features == 3
    for name, value in nano.state_dict().items():
        if not name.startswith("head.linear"):
            assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("kind", ["file", "run"])
def test_a_class_map_carries_rows_of_the_classifier_over(nano, published_file, tmp_path, caplog, kind):
    runs.save(nano, tmp_path / "run")
    weights = str(published_file if kind == "file" else tmp_path / "run")
    class_map = tmp_path / "rows.txt"
    class_map.write_text("7\n0\n10\n")
    with caplog.at_level("INFO"):
        model = build_model(ModelSpec(name="deit_nano", weights=weights, class_map=str(class_map)), CLASSES)
    assert model.classes == CLASSES
    for name, value in nano.state_dict().items():
        expected = value[[7, 0, 10]] if name.startswith("head.linear") else value
        assert torch.equal(model.state_dict()[name], expected), name
    assert f"3 of its classifier's 11 rows, picked by {class_map}" in caplog.text


@pytest.mark.parametrize(
    "content, message", [("1\n2\n", "2 entries and the data 3 classes"), ("1\n2\n11\n", "names row 11")], ids=str
)
def test_a_class_map_that_does_not_fit_is_refused(published_file, tmp_path, content, message):
    (tmp_path / "rows.txt").write_text(content)
    spec = ModelSpec(name="deit_nano", weights=str(published_file), class_map=str(tmp_path / "rows.txt"))
    with pytest.raises((ConfigError, CheckpointError), match=message):
        build_model(spec, CLASSES)


def test_a_class_map_needs_weights_with_a_classifier(tmp_path):
    with pytest.raises(ConfigError, match="class_map 'rows.txt' picks rows of the weights' classifier"):
        ModelSpec(name="deit_nano", class_map="rows.txt")
    runs.save(ImageClassifier(replace(find("deit_nano"), num_classes=0)), tmp_path / "run")
    (tmp_path / "rows.txt").write_text("0\n1\n2\n")
    with pytest.raises(CheckpointError, match="picks rows of a classifier, and .*run has none"):
        spec = ModelSpec(name="deit_nano", weights=str(tmp_path / "run"), class_map=str(tmp_path / "rows.txt"))
        build_model(spec, CLASSES)


def test_both_classifiers_of_a_distilled_model_start_afresh_for_other_classes(tmp_path):
    distilled = ImageClassifier(replace(find("deit_nano"), num_classes=11, distilled=True))
    runs.save(distilled, tmp_path / "run")
    config = replace(find("deit_nano"), distilled=True)
    model = build_model(ModelSpec(config=config, weights=str(tmp_path / "run")), CLASSES)
    assert [layer.out_features for layer in model.head.classifiers()] == [3, 3]
    assert torch.equal(model.backbone.distillation_token, distilled.backbone.distillation_token)


def test_positions_are_resized_when_the_run_trains_at_another_size(nano, published_file):
    spec = ModelSpec(name="deit_nano", overrides=(("image_size", 48),), weights=str(published_file))
    model = build_model(spec, CLASSES)
    assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 3)
    mine, theirs = model.state_dict(), nano.state_dict()
    assert mine["backbone.position.table"].shape != theirs["backbone.position.table"].shape
    assert torch.equal(mine["backbone.stem.proj.weight"], theirs["backbone.stem.proj.weight"])


def test_the_classifier_stays_for_the_same_classes_and_the_preprocessing_for_a_run(nano, tmp_path):
    nano.set_classes(tuple(f"class {number}" for number in range(11)))
    nano.preprocess = Preprocess(image_size=(64, 64), crop=1.0)
    runs.save(nano, tmp_path / "run")
    spec = ModelSpec(name="deit_nano", weights=str(tmp_path / "run"))
    same = build_model(spec, nano.classes)
    assert torch.equal(same.head.linear.weight, nano.head.linear.weight)
    assert same.preprocess == nano.preprocess
    renamed = build_model(spec, tuple(f"other {number}" for number in range(11)))
    assert not torch.equal(renamed.head.linear.weight, nano.head.linear.weight)


def test_weights_of_another_model_are_refused(published_file):
    with pytest.raises(CheckpointError, match="not a checkpoint of deit_tiny"):
        build_model(ModelSpec(name="deit_tiny", weights=str(published_file)), CLASSES)


def test_edits_come_before_training():
    norms = Norms(block=RepBN())
    spec = ModelSpec(config=replace(find("deit_nano"), pool="mean", norms=norms), edits=(FoldNorms(),))
    model = build_model(spec, CLASSES)
    assert [edit.kind for edit in model.edits] == ["fold_norms"]
    assert not any(isinstance(module, RepBatchNorm) for module in model.modules())


@pytest.mark.parametrize("fields", [{}, {"name": "deit_nano", "config": find("deit_nano")}])
def test_a_model_needs_a_name_or_a_config_and_not_both(fields):
    with pytest.raises(ConfigError, match="by its name or by a config"):
        ModelSpec(**fields)


def test_weights_with_other_norms_are_refused_by_what_differs(nano, tmp_path):
    bare = ImageClassifier(replace(nano.config, norms=Norms(block=RepBN())), "deit_nano")
    runs.save(bare, tmp_path)
    with pytest.raises(ConfigError, match=r"holds other norms than the model \(block: .*rep_bn.* -> .*layer_norm"):
        build_model(ModelSpec(name="deit_nano", weights=str(tmp_path)), CLASSES)


def test_a_file_without_a_classifier_gets_one_for_the_data(tmp_path, caplog):
    bare = ImageClassifier(replace(find("deit_nano"), num_classes=0))
    path = tmp_path / "bare.safetensors"
    files.write_safetensors(path, layout_of(bare.config).map_for(bare.config).to_published(bare.state_dict()))
    with caplog.at_level("INFO"):
        model = build_model(ModelSpec(name="deit_nano", weights=str(path)), CLASSES)
    assert model.head.linear.out_features == 3
    assert torch.equal(model.backbone.position.table, bare.backbone.position.table)
    assert "bare.safetensors: a new classifier of 3 classes" in caplog.text


def test_what_was_changed_about_the_weights_is_said(nano, published_file, caplog):
    with caplog.at_level("INFO"):
        build_model(ModelSpec(name="deit_nano", weights=str(published_file)), CLASSES)
    assert "published.safetensors: a new classifier of 3 classes in place of 11" in caplog.text
