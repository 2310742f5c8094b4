"""Labels from lists of paths: CSV, TSV, JSON, JSON lines, and lines `path label` without a header."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leanformer.data.folders import VAL_NAMES, Split, divide
from leanformer.data.labeled import check_distinct
from leanformer.data.options import DataOptions
from leanformer.data.preprocess import printable
from leanformer.data.stored import Files, LabelSets, StoredImages
from leanformer.data.trees import is_image
from leanformer.errors import DataError, suggestion

SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")
PATHS = ("path", "file", "file_name", "filename", "image", "image_path", "name")
LABELS = ("label", "labels", "class", "class_name", "category", "target")
SPLITS = ("split", "set", "subset", "fold")
CLASS_FILES = ("classes.txt", "labels.txt")
NUM_PROBED = 100

Label = str | list[str]
Rows = list[tuple[str, Label, str]]
"""The path, the label or labels, and the split, "" where there is none, of each image."""


@dataclass(frozen=True)
class Classes:
    """The classes that labels of lists stand for."""

    names: tuple[str, ...]
    numbers: dict[str, int]

    def label(self, text: str, source: str) -> int:
        """The number of the class that a list writes as `text`."""
        if text not in self.numbers:
            hint = suggestion(text, self.numbers)
            raise DataError(f"{source}: the class {text!r} is none of the {len(self.names)} known ones{hint}")
        return self.numbers[text]


def open_lists(train: Path | None, val: Path | None, split: Split, options: DataOptions) -> StoredImages:
    """The side `split` of two lists, or of one that has a column for it or is divided by a hash of the paths.

    Raises:
        DataError: for a list that cannot be read, names no images, or has labels of no known class.
    """
    file = val if split == "val" and val is not None else train
    if file is None:
        raise DataError(f"there is no list of train images beside {val}")
    rows = read_rows(file, options)
    known = rows if file == train or train is None else read_rows(train, options)
    classes = classes_of((label for _, label, _ in known), file.parent)
    if val is None:
        rows = _side(rows, split, options, file, classes)
    names = [path for path, _, _ in rows]
    root = Path(options.root).expanduser() if options.root else file.parent
    _check_present(names, root, file)
    labels, several = numbered([label for _, label, _ in rows], classes, str(file))
    return StoredImages(Files(root, names), np.arange(len(names)), labels, classes.names, several=several)


def read_rows(file: Path, options: DataOptions) -> Rows:
    """Every image that a list names."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a list: {error}") from error
    try:
        records = _json_records(text) if file.suffix in (".json", ".jsonl", ".ndjson") else _table(file, text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as {file.suffix[1:]}: {error}") from error
    if not records:
        raise DataError(f"{file} names no images")
    found = {name for record in records for name in record}
    path = _column(options.path_column, PATHS, found, "path", file)
    label = _column(options.label_column, LABELS, found, "label", file)
    split = options.split_column or next((name for name in SPLITS if name in found), None)
    rows = []
    for number, record in enumerate(records, 1):
        if not record.get(path) or record.get(label) is None:
            raise DataError(f"{file}: entry {number} has no {path if not record.get(path) else label}: {record}")
        side = str((record.get(split) if split else None) or "").strip()
        rows.append((str(record[path]), _label(record[label], options), side))
    return rows


def classes_of(labels: Iterable[Label], folder: Path) -> Classes:
    """The classes of a list: those of `classes.txt` beside it, one in each line, or all that occur, sorted; numbers
    are sorted as such, and with `classes.txt` they count its lines from 0.

    Raises:
        DataError: if two lines of `classes.txt` are alike, or it cannot be read.
    """
    file = next((folder / name for name in CLASS_FILES if (folder / name).is_file()), None)
    if file is not None:
        names = _lines(file)
        return Classes(names, {str(n): n for n in range(len(names))} | {name: n for n, name in enumerate(names)})
    found = {text for label in labels for text in ([label] if isinstance(label, str) else label)}
    numeric = all(re.fullmatch(r"\d+", text) for text in found)
    names = tuple(sorted(found, key=int if numeric else None))  # type: ignore[arg-type]
    return Classes(tuple(map(printable, names)), {name: number for number, name in enumerate(names)})


def _lines(file: Path) -> tuple[str, ...]:
    """The classes that `classes.txt` names."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a file of classes in UTF-8: {error}") from error
    lines = [(line.strip(), f"line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    check_distinct([name for name, _ in lines], [place for _, place in lines], file)
    return tuple(name for name, _ in lines)


def numbered(labels: Sequence[Label], classes: Classes, source: str) -> tuple[np.ndarray, LabelSets | None]:
    """The number of each label, and the sets of them where an image may have several."""
    if all(isinstance(label, str) for label in labels):
        return np.array([classes.label(str(label), source) for label in labels], np.int64), None
    sets = ([label] if isinstance(label, str) else label for label in labels)
    several = LabelSets(([classes.label(text, source) for text in texts] for texts in sets), len(classes.names))
    return several.first(), several


def _label(value: Any, options: DataOptions) -> Label:
    if isinstance(value, list):
        return [str(item) for item in value]
    text = str(value).strip()
    return [part for part in re.split(r"\s*[;|]\s*", text) if part] if options.multi_label else text


def _side(rows: Rows, split: Split, options: DataOptions, file: Path, classes: Classes) -> Rows:
    if any(name for _, _, name in rows):
        wanted = ("train",) if split == "train" else VAL_NAMES
        for number, (path, _, name) in enumerate(rows, 1):
            if name.lower() not in ("train", *VAL_NAMES):
                raise DataError(
                    f"{file}: entry {number}, {path}, has the split {name!r}; choose train or {', '.join(VAL_NAMES)}, "
                    "or leave the entry out"
                )
        chosen = [row for row in rows if row[2].lower() in wanted]
        if not chosen:
            found = ", ".join(sorted({name for _, _, name in rows}))
            raise DataError(f"{file} marks no image as {' or '.join(wanted)}; its splits are {found}")
        return chosen
    labels, _ = numbered([label for _, label, _ in rows], classes, str(file))
    chosen = divide([path for path, _, _ in rows], labels, split, options.val_share, file)
    if len(chosen) == 0:
        raise DataError(f"{file} leaves no image for {split}; give train.csv and val.csv, or a column `split`")
    return [rows[number] for number in chosen]


def _check_present(names: list[str], root: Path, file: Path) -> None:
    """Refuse a list whose paths lead nowhere, which no image of it would survive."""
    if not any((root / name).exists() for name in names[:NUM_PROBED]):
        raise DataError(
            f"none of the first {min(len(names), NUM_PROBED)} images of {file} exists, such as {root / names[0]}; "
            "paths count from the folder of the list (root= of the data options names another)"
        )


def _column(wanted: str | None, usual: tuple[str, ...], found: set[str], what: str, file: Path) -> str:
    name = wanted or next((name for name in usual if name in found), None)
    if name is None or name not in found:
        asked = f"no column {wanted!r}" if wanted else f"no column for the {what} (one of {', '.join(usual)})"
        raise DataError(f"{file} has {asked}; its columns are {', '.join(sorted(map(str, found)))}")
    return name


def _json_records(text: str) -> list[dict[str, Any]]:
    """Objects in a list or one in each line, or one object of path: label."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        whole = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(whole, dict) and not any(isinstance(whole.get(name), str) for name in PATHS):
        return [{"path": path, "label": label} for path, label in whole.items()]
    records = [whole] if isinstance(whole, dict) else whole
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("expected objects with a path and a label")
    return records


def _table(file: Path, text: str) -> list[dict[str, Any]]:
    """Rows by the names in the first one, or path and label where the first one names an image already."""
    lines = [line for line in text.splitlines() if line.strip()]
    if file.suffix == ".txt" and lines and "\t" not in lines[0] and "," not in lines[0]:
        rows = [line.rsplit(None, 1) for line in lines]
    else:
        first = lines[0] if lines else ""
        separator = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
        rows = list(csv.reader(lines, delimiter=separator))
    if rows and any(is_image(Path(cell).name) for cell in rows[0]):
        rows = [["path", "label"], *rows]
    if not rows:
        return []
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) < 2), None)
    if wrong is not None:
        raise ValueError(f"row {wrong} has no label: {rows[wrong - 1]}")
    return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
