import json
import logging

import numpy as np
import pytest
from PIL import Image

from leanformer.data import DataOptions, EvalBatches, open_data
from leanformer.errors import ConfigError, DataError
from leanformer.models import Preprocess

ROWS = [("a/1.png", "cat"), ("a/2.png", "dog"), ("b/3.png", "cat"), ("b/4.png", "ant")]


def put(root, rows=ROWS):
    for number, (path, _) in enumerate(rows):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (number, 0, 0)).save(root / path)


def write(root, name, rows=ROWS):
    as_json = [{"path": path, "label": label} for path, label in rows]
    text = {
        ".csv": "path,label\n" + "".join(f"{path},{label}\n" for path, label in rows),
        ".tsv": "".join(f"{path}\t{label}\n" for path, label in rows),
        ".txt": "".join(f"{path} {label}\n" for path, label in rows),
        ".json": json.dumps(as_json),
        ".jsonl": "".join(json.dumps(row) + "\n" for row in as_json),
    }[name[name.index(".") :]]
    (root / name).write_text(text)
    return root / name


@pytest.mark.parametrize("ending", ["csv", "tsv", "txt", "json", "jsonl"])
def test_two_lists_hold_the_two_sides(tmp_path, ending):
    put(tmp_path)
    write(tmp_path, f"train.{ending}", ROWS[:2] + ROWS[3:])
    write(tmp_path, f"val.{ending}", ROWS[2:3])
    for source in (tmp_path, f"{tmp_path}/{{train,val}}.{ending}"):
        train, val = open_data(source, "train"), open_data(source, "val")
        assert train.classes == val.classes == ("ant", "cat", "dog")
        assert (train.labels.tolist(), val.labels.tolist()) == ([1, 2, 0], [1])
        assert val.name(0) == "b/3.png"
        assert np.asarray(val.image(0))[0, 0].tolist() == [2, 0, 0]


def test_a_column_says_the_side(tmp_path):
    put(tmp_path)
    sides = ["train", "train ", " Valid", "train"]
    rows = "".join(f"{label},{path},{side}\n" for (path, label), side in zip(ROWS, sides, strict=True))
    (tmp_path / "all.csv").write_text(f"class,file,split\n{rows}")
    assert open_data(tmp_path / "all.csv", "val").name(0) == "b/3.png"
    assert len(open_data(tmp_path / "all.csv", "train")) == 3
    (tmp_path / "all.csv").write_text(f"class,file,split\n{rows}".replace("Valid", "train"))
    with pytest.raises(DataError, match="marks no image as val or .*; its splits are train"):
        open_data(tmp_path / "all.csv", "val")


@pytest.mark.parametrize("side", ["dev", ""])
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_unknown_side_is_refused_and_its_image_not_left_out(tmp_path, side, split):
    put(tmp_path)
    sides = ["train", "val", side, "train"]
    rows = "".join(f"{label},{path},{name}\n" for (path, label), name in zip(ROWS, sides, strict=True))
    (tmp_path / "all.csv").write_text(f"class,file,split\n{rows}")
    with pytest.raises(DataError, match=f"all.csv: entry 3, b/3.png, has the split '{side}'; choose train or val"):
        open_data(tmp_path / "all.csv", split)


def test_one_list_is_divided_by_the_paths(tmp_path, caplog):
    rows = [(f"{number}.png", str(number % 2)) for number in range(20)]
    put(tmp_path, rows)
    file = write(tmp_path, "all.csv", rows)
    with caplog.at_level(logging.INFO):
        train, val = open_data(file, "train"), open_data(file, "val")
    told = f"{file} has no side for validation: divided by a hash of each image's path, {len(val)} of 20 images are val"
    assert told in caplog.text
    assert {data.name(i) for data in (train, val) for i in range(len(data))} == {path for path, _ in rows}
    assert len(train) + len(val) == 20
    assert set(val.labels) == {0, 1}
    assert len(open_data(file, "train", DataOptions(val_share=0.0))) == 20
    with pytest.raises(DataError, match="leaves no image for val"):
        open_data(file, "val", DataOptions(val_share=0.0))


def test_numbers_sort_as_numbers_and_count_the_lines_of_a_file_of_classes(tmp_path):
    rows = [("1.png", "10"), ("2.png", "9"), ("3.png", "2")]
    put(tmp_path, rows)
    file = write(tmp_path, "all.csv", rows)
    options = DataOptions(val_share=0.0)
    data = open_data(file, "train", options)
    assert (data.classes, data.labels.tolist()) == (("2", "9", "10"), [2, 1, 0])
    (tmp_path / "classes.txt").write_text("".join(f"name {number}\n" for number in range(11)))
    data = open_data(file, "train", options)
    assert (len(data.classes), data.labels.tolist()) == (11, [10, 9, 2])


def test_two_classes_of_one_name_are_refused(tmp_path):
    rows = [("1.png", "0"), ("2.png", "1"), ("3.png", "2")]
    put(tmp_path, rows)
    file = write(tmp_path, "all.csv", rows)
    (tmp_path / "classes.txt").write_text("crane\n\ncrane\nfox\n")
    with pytest.raises(DataError, match="classes.txt gives two classes the name 'crane': line 1 and line 3; give each"):
        open_data(file, "train")


def test_a_file_of_classes_is_text_in_utf_8(tmp_path):
    put(tmp_path)
    file = write(tmp_path, "all.csv")
    (tmp_path / "classes.txt").write_text("ant\ncat\ndog\n", "utf-8-sig")
    assert open_data(file, "train").classes == ("ant", "cat", "dog")
    (tmp_path / "classes.txt").write_text("caf\xe9\n", "latin-1")
    with pytest.raises(DataError, match="classes.txt cannot be read as a file of classes in UTF-8"):
        open_data(file, "train")


def test_paths_may_count_from_another_folder_and_columns_have_any_name(tmp_path):
    put(tmp_path / "pictures")
    (tmp_path / "list.csv").write_text("photo,kind\n" + "".join(f"{path},{label}\n" for path, label in ROWS))
    with pytest.raises(DataError, match="no column for the path .*; its columns are kind, photo"):
        open_data(tmp_path / "list.csv", "train")
    options = DataOptions(path_column="photo", label_column="kind", val_share=0.0)
    with pytest.raises(DataError, match=r"none of the first 4 images .* exists, such as .*/a/1.png; .*root="):
        open_data(tmp_path / "list.csv", "train", options)
    options = DataOptions(path_column="photo", label_column="kind", val_share=0.0, root=str(tmp_path / "pictures"))
    assert len(open_data(tmp_path / "list.csv", "train", options)) == 4
    with pytest.raises(DataError, match="no column 'sort'"):
        open_data(tmp_path / "list.csv", "train", DataOptions(path_column="photo", label_column="sort"))


@pytest.mark.parametrize("form", ["csv", "json"])
def test_an_image_may_have_several_labels(tmp_path, form):
    rows = [("1.png", ["cat", "dog"]), ("2.png", ["cat"]), ("3.png", [])]
    put(tmp_path, rows)
    as_json = json.dumps([{"path": path, "label": labels} for path, labels in rows])
    as_csv = "path,label\n" + "".join(f"{path},{' ; '.join(labels)}\n" for path, labels in rows)
    for side in ("train", "val"):
        (tmp_path / f"{side}.{form}").write_text(as_json if form == "json" else as_csv)
    data = open_data(tmp_path, "val", DataOptions(multi_label=form == "csv"))
    assert data.classes == ("cat", "dog")
    batch = next(iter(EvalBatches(data, Preprocess(image_size=(4, 4)), 3)))
    assert batch.labels.tolist() == [[1, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_list_without_a_single_class_is_refused(tmp_path, split):
    rows = [(f"{number}.png", []) for number in range(4)]
    put(tmp_path, rows)
    with pytest.raises(DataError, match="all.json gives no image a class; label some"):
        open_data(write(tmp_path, "all.json", rows), split)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("l.csv", "path,label\n1.png\n", "cannot be read as csv: row 2 has no label"),
    ("l.csv", "", "names no images"),
    ("l.csv", "path,label\n1.png,\n,x\n", "entry 2 has no path"),
    ("l.json", "[1, 2]", "cannot be read as json: expected objects"),
    ("l.json", "{", "cannot be read as json"),
    ("l.json", "[" * 100_000, "cannot be read as json: maximum recursion depth exceeded"),
    ("l.jsonl", '{"path": "1.png"}\n', "no column for the label"),
])  # fmt: skip
def test_a_list_that_cannot_be_read_says_where(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / name, "train")


def test_a_class_of_val_that_train_lacks_is_named(tmp_path):
    put(tmp_path)
    write(tmp_path, "train.csv", [("a/1.png", "horse")])
    write(tmp_path, "val.csv", [("a/2.png", "hose")])
    with pytest.raises(DataError, match="class 'hose' is none of the 1 known ones; did you mean horse"):
        open_data(tmp_path, "val")


def test_a_val_side_without_a_readable_image_is_found_at_once(tmp_path):
    put(tmp_path)
    write(tmp_path, "train.csv")
    write(tmp_path, "val.csv", ROWS[:2])
    for path, _ in ROWS[:2]:
        (tmp_path / path).write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 2 images can be read\n.*a/1.png cannot be read"):
        open_data(tmp_path, "val")


def test_an_impossible_share_is_refused():
    with pytest.raises(ConfigError, match="val_share must be at least 0 and below 1, got 1.0"):
        DataOptions(val_share=1.0)
