import logging
import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from leanformer.data import ImageFolder, open_data
from leanformer.data.preprocess import open_image
from leanformer.data.synthetic import write_folder
from leanformer.errors import DataError


def put(path, gray=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 2), gray).save(path)


def names(data):
    return [data.name(index) for index in range(len(data))]


def test_a_folder_with_train_and_val_holds_its_own_split(tmp_path):
    write_folder(tmp_path, num_classes=3, per_class=5, num_val=2)
    train, val = open_data(tmp_path, "train"), open_data(str(tmp_path), "val")
    assert (len(train), len(val)) == (15, 6)
    assert train.classes == val.classes == ("blue triangle", "green square", "red circle")
    assert all(name.startswith("train/") for name in names(train))
    assert train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert {train.image(index).mode for index in range(len(train))} == {"RGB"}


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_the_validation_folder_has_several_names(tmp_path, name):
    put(tmp_path / "train" / "cat" / "1.png")
    put(tmp_path / name / "cat" / "2.png")
    assert names(open_data(tmp_path, "val")) == [f"{name}/cat/2.png"]


def test_a_folder_without_splits_is_divided_by_the_hash_of_each_path(tmp_path, caplog):
    for number in range(100):
        put(tmp_path / "cat" / f"{number}.png")
        put(tmp_path / "dog" / f"{number}.png")
    with caplog.at_level(logging.INFO):
        train, val = open_data(tmp_path, "train"), open_data(tmp_path, "val")
    assert sorted(names(train) + names(val)) == sorted(f"{c}/{n}.png" for c in ("cat", "dog") for n in range(100))
    assert 25 <= len(val) <= 55
    assert f"{len(val)} of 200 images are val" in caplog.text
    put(tmp_path / "cat" / "another.png")
    assert set(names(val)) <= set(names(open_data(tmp_path, "val")))
    assert set(names(train)) <= set(names(open_data(tmp_path, "train")))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_each_class_of_two_images_or_more_is_on_both_sides(tmp_path, count):
    for label in range(20):
        for number in range(count):
            put(tmp_path / f"class{label:02d}" / f"{number}.png")
    for split in ("train", "val"):
        assert set(open_data(tmp_path, split).labels) == set(range(20))


def test_a_class_of_one_image_is_trained_on(tmp_path):
    put(tmp_path / "cat" / "1.png")
    put(tmp_path / "dog" / "1.png")
    put(tmp_path / "dog" / "2.png")
    train, val = open_data(tmp_path, "train"), open_data(tmp_path, "val")
    assert train.labels.tolist() == [0, 1]
    assert val.labels.tolist() == [1]
    assert val.classes == ("cat", "dog")


def test_a_train_folder_alone_is_divided(tmp_path):
    for number in range(4):
        put(tmp_path / "train" / "cat" / f"{number}.png")
    assert len(open_data(tmp_path, "train")) + len(open_data(tmp_path, "val")) == 4


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "car", "train"):
        put(tmp_path / name / "1.png")
        put(tmp_path / name / "2.png")
    assert open_data(tmp_path, "train").classes == ("bus", "car", "train")


def test_a_val_folder_alone_can_be_evaluated_but_not_trained_on(tmp_path):
    put(tmp_path / "val" / "cat" / "1.png")
    assert names(open_data(tmp_path, "val")) == ["val/cat/1.png"]
    with pytest.raises(DataError, match="holds 'val' but no 'train' folder to train on"):
        open_data(tmp_path, "train")


def test_nested_folders_are_followed_and_hidden_and_other_files_ignored(tmp_path):
    for name in ("b.JPG", "deep/er/a.jpeg", "c.tif", "d.WebP", "e.bmp", "f.gif", "g.tiff"):
        put(tmp_path / "train" / "cat" / name)
    for name in (".hidden.png", ".cache/x.png"):
        put(tmp_path / "train" / "cat" / name)
    put(tmp_path / "train" / ".git" / "x.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    put(tmp_path / "val" / "cat" / "x.png")
    expected = ["b.JPG", "c.tif", "d.WebP", "deep/er/a.jpeg", "e.bmp", "f.gif", "g.tiff"]
    assert names(open_data(tmp_path, "train")) == [f"train/cat/{name}" for name in expected]


def test_labels_of_val_count_in_the_classes_of_train(tmp_path):
    for name in ("ant", "bee", "cat"):
        put(tmp_path / "train" / name / "1.png")
    put(tmp_path / "val" / "cat" / "1.png")
    val = open_data(tmp_path, "val")
    assert val.classes == ("ant", "bee", "cat")
    assert val.labels.tolist() == [2]
    assert val.labels.dtype == np.int64


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_of_val_unknown_to_train_is_named(tmp_path, split):
    put(tmp_path / "train" / "horse" / "1.png")
    put(tmp_path / "val" / "hose" / "1.png")
    with pytest.raises(DataError, match="class 'hose' of .*val is unknown to .*train; did you mean horse?"):
        open_data(tmp_path, split)


def test_a_missing_folder_is_named_with_its_nearest_neighbor(tmp_path):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(DataError, match=f"no folder {re.escape(str(tmp_path))}/flower; did you mean flowers?"):
        open_data(tmp_path / "flower", "train")
    with pytest.raises(DataError, match="expected ROOT/train/<class>"):
        open_data(tmp_path / "nowhere" / "deeper", "train")


def test_a_file_is_not_a_folder_of_images(tmp_path):
    put(tmp_path / "cat.png")
    with pytest.raises(DataError, match="cat.png is a file, not a folder of images; expected ROOT/train/<class>"):
        open_data(tmp_path / "cat.png", "train")


def test_a_folder_without_classes_says_what_was_expected(tmp_path):
    with pytest.raises(
        DataError, match=f"{re.escape(str(tmp_path))} holds no class folders; expected ROOT/train/<class>"
    ):
        open_data(tmp_path, "train")
    put(tmp_path / "1.png")
    put(tmp_path / "2.png")
    with pytest.raises(DataError, match="its 2 images lie in no class folder"):
        open_data(tmp_path, "train")
    put(tmp_path / "train" / "1.png")
    with pytest.raises(DataError, match="train holds no class folders; its 1 images lie in no class folder"):
        ImageFolder(tmp_path, "train")


def test_a_class_without_images_is_named(tmp_path):
    put(tmp_path / "train" / "cat" / "1.png")
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "train" / "dog" / "readme.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"class 'dog' has no images in .*train/dog; add some \(bmp gif jpeg jpg"):
        open_data(tmp_path, "train")


def test_a_set_with_one_image_per_class_leaves_none_for_val(tmp_path):
    put(tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match="one image per class, so none is left for val"):
        open_data(tmp_path, "val")


def test_an_unknown_data_set_is_answered_with_the_nearest_name():
    with pytest.raises(DataError, match="no data set is called 'garment' .*; did you mean garments?"):
        open_data("garment", "train")


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="unknown split 'dev' of garments; choose train or val"):
        open_data("garments", "dev")


@pytest.mark.skipif(sys.platform != "linux", reason="only here may file names be any bytes")
def test_names_that_are_not_utf_8_can_be_read_and_written_down(tmp_path):
    for number in range(3):
        put(tmp_path / os.fsdecode(b"caf\xe9") / os.fsdecode(b"\xe9%d.png" % number))
    data = open_data(tmp_path, "train")
    assert data.classes == ("caf\\xe9",)
    assert data.image(0).size == (3, 2)
    assert data.name(0).startswith("caf\\xe9/\\xe9")
    damaged = tmp_path / os.fsdecode(b"caf\xe9/\xe90.png")
    damaged.write_bytes(b"")
    with pytest.raises(DataError) as error:
        open_image(damaged)
    str(error.value).encode("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="only here may file names be any bytes")
def test_folders_whose_names_are_written_alike_are_refused(tmp_path):
    put(tmp_path / "a\\xff" / "1.png")
    put(tmp_path / os.fsdecode(b"a\xff") / "2.png")
    with pytest.raises(DataError) as error:
        open_data(tmp_path, "train")
    told = r"gives two classes the name 'a\\xff': folder b'a\\xff' and folder b'a\xff'; give each a name of its own"
    assert told in str(error.value)


def test_a_folder_inside_a_class_that_cannot_be_listed_is_named_and_not_left_out(tmp_path, monkeypatch):
    put(tmp_path / "train" / "cat" / "1.png")
    put(tmp_path / "train" / "cat" / "more" / "2.png")
    put(tmp_path / "val" / "cat" / "3.png")
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match="more cannot be listed: Permission denied"):
        open_data(tmp_path, "train")
