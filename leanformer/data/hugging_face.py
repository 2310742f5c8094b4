"""Data sets of Hugging Face: by name, saved to a folder, or as parquet files."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leanformer.data.folders import VAL_NAMES, Split, divide
from leanformer.data.labeled import LabeledImages
from leanformer.data.options import DataOptions
from leanformer.data.preprocess import open_image
from leanformer.data.stored import LabelSets, StoredImages
from leanformer.errors import DataError, require, suggestion

HUGGING_FACE = "hf:"


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`, or holds parquet files."""
    return is_table(folder) or bool(_parquet(folder))


def side_of(splits: dict[str, Any], split: Split, source: str | Path) -> tuple[str, bool]:
    """What a data set calls the side, and whether it has one for validation."""
    val = next((name for name in VAL_NAMES if name in splits), None)
    side = val if split == "val" and val else "train"
    if side not in splits:
        raise DataError(f"{source} has no split {side!r}; its splits are {', '.join(splits)}")
    return side, val is not None


def open_hugging_face(source: str | Path, split: Split, options: DataOptions) -> LabeledImages:
    """The side `split` of `hf:name`, `hf:name/config` of a hub name, or of what lies at a path.

    Raises:
        MissingExtra: without the `data` extra.
        DataError: if it cannot be loaded, or has no column of images or of labels.
    """
    datasets = require("datasets", extra="data")
    try:
        splits = _load(datasets, source)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{source} cannot be loaded: {error}") from error
    side, has_val = side_of(splits, split, source)
    rows = splits[side]
    image, label = columns(rows, source, options, datasets)
    known = splits.get("train", rows)
    values = rows[label][:]
    labels, several, classes = numbered_labels(rows.features[label], label, values, lambda: known[label][:])
    chosen = np.arange(len(rows))
    if not has_val:
        numbers = [str(number) for number in range(len(rows))]
        chosen = divide(numbers, labels, split, options.val_share, source, "number")
        several = None if several is None else LabelSets([several[int(n)] for n in chosen], len(classes))
    store = _Rows(rows.select_columns([image]).cast_column(image, datasets.Image(decode=False)), image, str(source))
    return StoredImages(store, chosen, labels[chosen], classes, several=several)


class _Rows:
    """The images of a table."""

    def __init__(self, rows: Any, column: str, title: str) -> None:
        self.rows, self.column, self.title = rows, column, title

    def image(self, number: int) -> Image.Image:
        """The image as RGB."""
        value = self.rows[number][self.column]
        if value is None or (value.get("bytes") is None and not value.get("path")):
            raise DataError(f"{self.name(number)} is empty")
        if value.get("bytes") is None:
            return open_image(value["path"])
        source = BytesIO(value["bytes"])
        source.name = self.name(number)  # type: ignore[attr-defined] - what messages call it
        return open_image(source)

    def name(self, number: int) -> str:
        """The data set's title and the row."""
        return f"{self.title}[{number}]"


def _load(datasets: Any, source: str | Path) -> dict[str, Any]:
    """The splits by name."""
    if isinstance(source, str):
        name = source.removeprefix(HUGGING_FACE)
        if not Path(name).expanduser().exists():
            found = datasets.load_dataset(*name_and_config(name))
            return dict(found)
        source = Path(name).expanduser()
    path = source
    if path.is_dir() and is_table(path):
        found = datasets.load_from_disk(str(path))
        return dict(found) if isinstance(found, dict) else {"train": found}
    files = [path] if path.is_file() else _parquet(path)
    sides: dict[str, list[str]] = {}
    for file in files:
        word = file.name.lower().replace(".", "-").split("-")[0]
        side = "val" if word in VAL_NAMES else "train"
        sides.setdefault(side, []).append(str(file))
    return dict(datasets.load_dataset("parquet", data_files=sides))


def is_table(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    saved = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return saved or (folder / "dataset_dict.json").is_file()


def name_and_config(name: str) -> tuple[str, ...]:
    """`owner/name/config` has a config; `owner/name` and `name` have none."""
    parts = name.split("/")
    return ("/".join(parts[:2]), parts[2]) if len(parts) == 3 else (name,)


def _parquet(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])


def columns(rows: Any, source: str | Path, options: DataOptions, datasets: Any) -> tuple[str, str]:
    """The columns of images and of labels, by what they hold or are usually called."""
    features = rows.features
    images = [n for n, kind in features.items() if isinstance(kind, datasets.Image)] or [
        n for n in ("image", "img") if n in features
    ]
    kinds = [n for n, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = kinds or [n for n in ("label", "labels", "class", "fine_label", "target", "cls") if n in features]
    image = options.path_column or next(iter(images), None)
    label = options.label_column or next(iter(labels), None)
    if image is None or label is None or not {image, label} <= set(features):
        what = "labels" if image in features else "images"
        raise DataError(f"{source} has no column of {what}; its columns are {', '.join(features)}")
    return image, label


def numbered_labels(
    kind: Any, column: str, values: list[Any], known: Callable[[], list[Any]]
) -> tuple[np.ndarray, LabelSets | None, tuple[str, ...]]:
    """The number of the class in each of `values`, the sets of them where an image may have several, and the classes:
    those that the column's `kind` names, or all that occur in the `known` values, sorted.

    Raises:
        DataError: for an image without a label, or of a class that no training image has.
    """
    inner = getattr(kind, "feature", None)
    names = getattr(inner or kind, "names", None)
    empty = next((row for row, value in enumerate(values) if None in _items(value)), None)
    if empty is not None:
        raise DataError(
            f"column {column!r} has no label in row {empty}; choose a labeled split, or leave such rows out"
        )
    if names is None:
        ordered = sorted({item for value in known() for item in _items(value) if item is not None})
        names, numbers = [str(item) for item in ordered], {item: n for n, item in enumerate(ordered)}
        new = next((item for value in values for item in _items(value) if item not in numbers), None)
        if new is not None:
            raise DataError(
                f"column {column!r} has the class {new!r}, which no training image has{suggestion(str(new), names)}; "
                "every class to validate on has to be trained on"
            )
        values = [[numbers[i] for i in v] if isinstance(v, list) else numbers[v] for v in values]
    if values and isinstance(values[0], list):
        several = LabelSets(values, len(names))
        return several.first(), several, tuple(names)
    labels = np.array(values, np.int64)
    if len(labels) and labels.min() < 0:
        raise DataError(f"column {column!r} holds {labels.min()} for images without a label; choose a labeled split")
    return labels, None, tuple(names)


def _items(value: Any) -> list[Any]:
    """The labels of an image: those of a list, or the one."""
    return value if isinstance(value, list) else [value]
