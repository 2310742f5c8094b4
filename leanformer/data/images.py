"""Data sets by name, folder, list or archive: `open_data` finds out which, `ImageFolder` reads `root/<split>/<class>`
and its like."""

from __future__ import annotations

import re
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from leanformer.data import packed
from leanformer.data.folders import LAYOUT, REMEDY, VAL_NAMES, VAL_SHARE, Split, class_folders
from leanformer.data.garments import garments
from leanformer.data.hugging_face import HUGGING_FACE, is_saved, open_hugging_face
from leanformer.data.hugging_face_streams import open_stream
from leanformer.data.idx import is_idx, open_idx
from leanformer.data.imagenet import KAGGLE, flat_labels, readable
from leanformer.data.labeled import ArrayImages, LabeledImages, nothing_readable
from leanformer.data.lists import SUFFIXES, open_lists
from leanformer.data.options import DataOptions
from leanformer.data.stored import Files, StoredImages
from leanformer.data.trees import FileTree
from leanformer.data.unpacked import ending
from leanformer.errors import DataError, suggestion

__all__ = ["ArrayImages", "ImageFolder", "LabeledImages", "Split", "check_readable", "open_data"]

DATASETS = {"garments": garments}


def open_data(source: str | Path, split: Split, options: DataOptions | None = None) -> LabeledImages:
    """The data set called `source`, or what is at that path: a folder, a list, an archive, shards, a saved data set.

    Raises:
        DataError: if there is no such data set, or it holds no labeled images, or none that can be read for `val`.
        MissingExtra: if it is one of Hugging Face and the `data` extra is missing.
    """
    if split not in ("train", "val"):
        raise DataError(f"unknown split {split!r} of {source}; choose train or val")
    if isinstance(source, str) and source in DATASETS:
        return DATASETS[source](split)
    options = options or DataOptions()
    data = _open(source, split, options)
    if not data.classes:
        raise DataError(f"{source} gives no image a class; label some of the images that are trained on")
    if split == "val" and len(data) == 0:
        share = f"val_share {options.val_share:g}"
        raise DataError(f"{source} has no side for validation, and {share} leaves none of its images for it; {REMEDY}")
    if split == "val":
        check_readable(data)
    return data


def check_readable(data: LabeledImages) -> None:
    """Refuse a data set of which no image can be read; the first that can ends the search."""
    errors = []
    for index in range(len(data)):
        try:
            data.image(index)
        except DataError as error:
            errors.append(str(error))
        else:
            return
    raise nothing_readable(len(data), errors)


def _open(source: str | Path, split: Split, options: DataOptions) -> LabeledImages:
    if options.streaming:
        return open_stream(source, split, options)
    if isinstance(source, str) and source.startswith(HUGGING_FACE):
        return open_hugging_face(source, split, options)
    if isinstance(source, str) and "{" in source and not Path(source).exists():
        return _open_files(*_expand(source), split, options, source)
    path = Path(source).expanduser()
    if not path.exists() and isinstance(source, str) and path.name == source:
        raise DataError(
            f"no data set is called {source!r} and there is no folder of that name in {Path.cwd()}"
            f"{suggestion(source, DATASETS)}\n  data sets: {', '.join(DATASETS)}; "
            f"or give the path of a folder: {LAYOUT}"
        )
    if path.is_file():
        return _open_file(path, split, options)
    return _open_folder(path, split, options) if path.is_dir() else ImageFolder(path, split)


def _open_file(path: Path, split: Split, options: DataOptions) -> LabeledImages:
    name = path.name.lower()
    if is_idx(path):
        return open_idx(path, split, options)
    if name.endswith(".parquet"):
        return open_hugging_face(path, split, options)
    if name.endswith(SUFFIXES):
        return open_lists(path, None, split, options)
    if ending(path) in (".zip", ".tar"):
        return _open_files([path], [], split, options, path)
    return ImageFolder(path, split)  # which says what was expected


def _open_folder(path: Path, split: Split, options: DataOptions) -> LabeledImages:
    if is_saved(path):
        return open_hugging_face(path, split, options)
    if (path / "train_map.txt").is_file() and (path / "train.zip").is_file():
        return packed.open_mapped(path, split, options)
    try:
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError as error:
        raise DataError(f"{path} cannot be listed: {error.strerror}") from error
    if not (path / "train").is_dir():
        if any(map(is_idx, files)):
            return open_idx(path, split, options)
        for endings in ((".tar",), (".zip",), SUFFIXES):
            train, val = _by_split([file for file in files if ending(file) in endings])
            if train:
                return _open_files(train, val, split, options, path)
        tars = [file for file in files if ending(file) == ".tar"]
        if tars and len(tars) == len([file for file in files if file.suffix not in (".txt", ".md")]):
            return packed.open_shards(tars, [], split, options)
    return ImageFolder(path / KAGGLE if (path / KAGGLE).is_dir() else path, split, options.val_share)


def _open_files(
    train: list[Path], val: list[Path], split: Split, options: DataOptions, source: str | Path
) -> LabeledImages:
    """The lists, zip files or shards of one side or both."""
    kinds = {ending(file) for file in (*train, *val)}
    if not train and not val:
        raise DataError(f"no file fits {source}")
    if kinds == {".zip"}:
        if train and val:
            return packed.open_pair(train[0], val[0], split, options)
        return packed.open_folders_in(train or val, split, options)
    if kinds <= set(SUFFIXES):
        if max(len(train), len(val)) > 1:
            raise DataError(f"{source} stands for {len(train)} lists to train on and {len(val)} for val; give one each")
        return open_lists(train[0] if train else None, val[0] if val else None, split, options)
    return packed.open_shards(train, val, split, options)


def _by_split(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """The files whose name begins with `train`, and those with `val` or its like."""
    first = [re.split(r"[^a-z]", file.name.lower())[0] for file in files]
    train = [file for file, word in zip(files, first, strict=True) if word == "train"]
    return train, [file for file, word in zip(files, first, strict=True) if word in VAL_NAMES]


def _expand(pattern: str) -> tuple[list[Path], list[Path]]:
    """The files that `a/{train,val}-{000..127}.tar` stands for; without a part for the split all are train.

    Raises:
        DataError: if one of them is missing.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(part, pattern) if number % 2 else [part] for number, part in enumerate(parts)]
    sides: tuple[list[Path], list[Path]] = ([], [])
    for chosen in product(*choices):
        is_val = any(part in VAL_NAMES for part in chosen[1::2])
        sides[is_val].append(Path("".join(chosen)).expanduser())
    missing = [path for path in (*sides[0], *sides[1]) if not path.exists()]
    if missing:
        raise DataError(f"{pattern} stands for {len(missing)} files that do not exist, such as {missing[0]}")
    return sides


def _choices(inside: str, pattern: str) -> list[str]:
    """What `a,b` or `000..127` between braces stands for."""
    match = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if match:
        low, high = match.groups()
        return [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    if "," not in inside:
        raise DataError(f"{pattern}: {{{inside}}} is neither a choice like {{train,val}} nor a range like {{000..127}}")
    return inside.split(",")


class ImageFolder(StoredImages):
    """Images in one folder for each class, nested folders included.

    A root with `train` (and `val`, `valid`, `validation` or `test`) holds its own split. Any other root is divided by a
    hash of each image's path: about a fifth is `val`, and adding images moves no other image across, except that every
    class with two images or more has at least one on each side. ImageNet's val folder may be flat, beside a file of the
    truth.
    """

    def __init__(self, root: str | Path, split: Split, val_share: float = VAL_SHARE) -> None:
        self.root = Path(root).expanduser()
        _check_folder(self.root)
        found = class_folders(FileTree(self.root), split, val_share, partial(flat_labels, self.root))
        store = Files(self.root, found.names)
        classes = readable(found.keys, self.root)
        super().__init__(store, np.arange(len(found.names)), found.labels, classes, found.keys)


def _check_folder(root: Path) -> None:
    if root.is_dir():
        return
    if root.exists():
        raise DataError(f"{root} is a file, not a folder of images; {LAYOUT}")
    parent = root.parent
    siblings = FileTree(parent).folders("") if parent.is_dir() else ()
    raise DataError(f"there is no folder {root}{suggestion(root.name, siblings)}\n  {LAYOUT}")
