import importlib.util
import io

import pytest
import torch
from PIL import Image

from leanformer.data import DataOptions, EvalBatches, TrainBatches, open_data
from leanformer.errors import DataError, MissingExtra
from leanformer.models import Preprocess

INSTALLED = importlib.util.find_spec("datasets") is not None
PLAIN = Preprocess(image_size=(4, 4))


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def table(count, label, broken=()):
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [{"bytes": b"none" if n in broken else png(n), "path": None} for n in range(count)],
        "label": [label(n) for n in range(count)],
    }
    kind = datasets.ClassLabel(names=["cat", "dog"])
    if isinstance(label(0), list):
        kind = datasets.Sequence(kind)
    return datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image(), "label": kind}))


def reds(data):
    return [data.image(index).getpixel((0, 0))[0] for index in range(len(data))]


@pytest.mark.skipif(INSTALLED, reason="datasets is installed")
def test_without_the_extra_the_line_that_installs_it_is_said(tmp_path):
    (tmp_path / "train-0.parquet").write_bytes(b"")
    for source in ("hf:cifar10", tmp_path, tmp_path / "train-0.parquet"):
        with pytest.raises(MissingExtra, match=r"pip install 'leanformer\[data\]'"):
            open_data(source, "train")


@pytest.mark.extras
@pytest.mark.parametrize("form", ["saved", "named", "parquet", "one parquet"])
def test_saved_sets_and_parquet_files_are_read(tmp_path, form, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    sides = datasets.DatasetDict(train=table(7, lambda n: n % 2), validation=table(3, lambda n: 1))
    folder = tmp_path / "set"
    if "parquet" in form:
        (folder / "data").mkdir(parents=True)
        for name, side in sides.items():
            side.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    else:
        sides.save_to_disk(folder)
    source = {"named": f"hf:{folder}", "one parquet": folder / "data" / "train-00000-of-00001.parquet"}.get(
        form, folder
    )
    options = DataOptions(val_share=0.0)
    train = open_data(source, "train", options)
    assert train.classes == ("cat", "dog")
    assert (train.labels.tolist(), reds(train)) == ([0, 1, 0, 1, 0, 1, 0], list(range(7)))
    if form != "one parquet":
        val = open_data(source, "val", options)
        assert (val.labels.tolist(), reds(val)) == ([1, 1, 1], [0, 1, 2])


@pytest.mark.extras
def test_a_set_that_leaves_nothing_to_validate_on_says_what_to_do(tmp_path):
    table(4, lambda n: n % 2).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="val_share 0 leaves none of its images for it; give a share"):
        open_data(tmp_path / "set", "val", DataOptions(val_share=0.0))


@pytest.mark.extras
def test_damaged_rows_are_named_and_workers_change_nothing(tmp_path):
    table(9, lambda n: n % 2, broken={4}).save_to_disk(tmp_path / "set")
    data = open_data(tmp_path / "set", "train", DataOptions(val_share=0.0))
    alone, helped = (TrainBatches(data, PLAIN, None, 3, 0, workers) for workers in (0, 2))
    for ours, theirs in zip(helped.batches(0), alone.batches(0), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert ours.skipped == theirs.skipped
    assert list(alone.unreadable) == [f"{tmp_path / 'set'}[4]"]


@pytest.mark.extras
def test_rows_may_have_several_labels(tmp_path):
    table(4, lambda n: [0, 1] if n % 2 else [1]).save_to_disk(tmp_path / "set")
    data = open_data(tmp_path / "set", "train", DataOptions(val_share=0.0))
    assert next(iter(EvalBatches(data, PLAIN, 4))).labels.tolist() == [[0, 1], [1, 1]] * 2


@pytest.mark.extras
def test_a_set_that_cannot_be_read_says_why(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="has no column of images; its columns are text"):
        open_data(tmp_path / "set", "train")
    (tmp_path / "set" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be loaded"):
        open_data(tmp_path / "set", "train")
    table(3, lambda n: -1).save_to_disk(tmp_path / "unlabeled")
    with pytest.raises(DataError, match="holds -1 for images without a label"):
        open_data(tmp_path / "unlabeled", "train")


@pytest.mark.extras
def test_an_image_without_a_label_or_of_a_class_never_trained_on_is_named(tmp_path):
    datasets = pytest.importorskip("datasets")

    def side(*labels):
        rows = {"image": [{"bytes": png(n), "path": None} for n in range(len(labels))], "label": list(labels)}
        kinds = {"image": datasets.Image(), "label": datasets.Value("string")}
        return datasets.Dataset.from_dict(rows, datasets.Features(kinds))

    datasets.DatasetDict(train=side("cat", "dog"), validation=side("cat", "dogs")).save_to_disk(tmp_path / "new")
    assert open_data(tmp_path / "new", "train").classes == ("cat", "dog")
    with pytest.raises(DataError, match=r"'label' has the class 'dogs', which no training image has; did you mean dog"):
        open_data(tmp_path / "new", "val")
    datasets.DatasetDict(train=side("cat", None), validation=side("cat")).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match="'label' has no label in row 1"):
        open_data(tmp_path / "none", "train")
    assert open_data(tmp_path / "none", "val").classes == ("cat",)
