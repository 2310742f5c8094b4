"""Data sets by name or by folder: `open_data` finds them, `ImageFolder` reads `root/train/<class>/...` and its like."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from leanformer.data.garments import garments
from leanformer.data.labeled import ArrayImages, LabeledImages
from leanformer.data.preprocess import open_image, printable
from leanformer.errors import DataError, suggestion

__all__ = ["ArrayImages", "ImageFolder", "LabeledImages", "Split", "open_data"]

log = logging.getLogger(__name__)

Split = Literal["train", "val"]
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
VAL_NAMES = ("val", "valid", "validation", "test")
VAL_SHARE = 0.2
DATASETS = {"garments": garments}
LAYOUT = "expected ROOT/train/<class>/*.jpg and ROOT/val/<class>/*.jpg, or ROOT/<class>/*.jpg"


def open_data(source: str | Path, split: Split) -> LabeledImages:
    """The data set called `source`, or the folder of images at that path.

    Raises:
        DataError: if there is no such data set or folder, or the folder holds no labeled images.
    """
    if split not in ("train", "val"):
        raise DataError(f"unknown split {split!r} of {source}; choose train or val")
    if isinstance(source, str) and source in DATASETS:
        return DATASETS[source](split)
    path = Path(source).expanduser()
    if not path.exists() and isinstance(source, str) and path.name == source:
        raise DataError(
            f"no data set is called {source!r} and there is no folder of that name in {Path.cwd()}"
            f"{suggestion(source, DATASETS)}\n  data sets: {', '.join(DATASETS)}; "
            f"or give the path of a folder: {LAYOUT}"
        )
    return ImageFolder(path, split)


class ImageFolder:
    """Images in one folder for each class, nested folders included.

    A root with `train` (and `val`, `valid`, `validation` or `test`) holds its own split. Any other root is divided by a
    hash of each image's path: about a fifth is `val`, and adding images moves no other image across, except that every
    class with two images or more has at least one on each side.
    """

    def __init__(self, root: str | Path, split: Split) -> None:
        self.root = Path(root).expanduser()
        _check_folder(self.root)
        train, val = _split_folders(self.root)
        if val is None:
            files = _divided(train or self.root, split)
        elif split == "val":
            files = _images_by_class(val)
        elif train is not None:
            files = _images_by_class(train)
        else:
            raise DataError(f"{self.root} holds {val.name!r} but no 'train' folder to train on; {LAYOUT}")
        folders = _common_classes(train, val) if train and val else tuple(files)
        self.classes = tuple(printable(name) for name in folders)
        self._paths = [path for paths in files.values() for path in paths]
        numbers = {name: label for label, name in enumerate(folders)}
        self.labels = np.array([numbers[name] for name, paths in files.items() for _ in paths], np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int) -> Image.Image:
        """The image at `index` as RGB."""
        return open_image(self._paths[index])

    def name(self, index: int) -> str:
        """The image's path within the root."""
        return printable(self._paths[index].relative_to(self.root).as_posix())


def _check_folder(root: Path) -> None:
    if root.is_dir():
        return
    if root.exists():
        raise DataError(f"{root} is a file, not a folder of images; {LAYOUT}")
    parent = root.parent
    siblings = _folders(parent) if parent.is_dir() else {}
    raise DataError(f"there is no folder {root}{suggestion(root.name, siblings)}\n  {LAYOUT}")


def _split_folders(root: Path) -> tuple[Path | None, Path | None]:
    """The folders of the two splits; neither if `root` holds classes itself (one of which may be called 'train')."""
    folders = _folders(root)
    val = next((folders[name] for name in VAL_NAMES if name in folders), None)
    train = folders.get("train")
    if train is not None and (_folders(train) or set(folders) <= {"train", *VAL_NAMES}):
        return train, val
    if train is None and set(folders) <= set(VAL_NAMES):
        return None, val
    return None, None


def _common_classes(train: Path, val: Path) -> tuple[str, ...]:
    classes = tuple(_folders(train))
    for name in _folders(val):
        if name not in classes:
            raise DataError(
                f"class {name!r} of {val} is unknown to {train}{suggestion(name, classes)}\n"
                f"  every class to validate on needs a folder of that name in {train}"
            )
    return classes


def _divided(root: Path, split: Split) -> dict[str, list[Path]]:
    """The side `split` of the classes in `root`, divided by the hash of each path."""
    chosen, total = {}, 0
    for name, paths in _images_by_class(root).items():
        total += len(paths)
        ranked = sorted(paths, key=lambda path: _fraction(path.relative_to(root)))
        num_val = sum(_fraction(path.relative_to(root)) < VAL_SHARE for path in paths)
        num_val = min(max(num_val, 1), len(paths) - 1)
        side = set(ranked[:num_val] if split == "val" else ranked[num_val:])
        chosen[name] = [path for path in paths if path in side]
    count = sum(map(len, chosen.values()))
    log.info(
        "%s has no val folder: divided by a hash of the file names, %d of %d images are %s", root, count, total, split
    )
    if count == 0:
        raise DataError(
            f"{root} has one image per class, so none is left for val; add images or a val folder: {LAYOUT}"
        )
    return chosen


def _fraction(path: Path) -> float:
    """A number in 0..1 that depends on the path alone."""
    return int.from_bytes(hashlib.sha256(path.as_posix().encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64


def _images_by_class(folder: Path) -> dict[str, list[Path]]:
    classes = _folders(folder)
    if not classes:
        found = sum(1 for entry in folder.iterdir() if _is_image(entry.name))
        hint = f"; its {found} images lie in no class folder" if found else ""
        raise DataError(f"{folder} holds no class folders{hint}; {LAYOUT}")
    images = {name: _images(path) for name, path in classes.items()}
    for name, paths in images.items():
        if not paths:
            endings = " ".join(sorted(ending[1:] for ending in EXTENSIONS))
            raise DataError(
                f"class {name!r} has no images in {classes[name]}; add some ({endings}) or remove the folder"
            )
    return images


def _folders(root: Path) -> dict[str, Path]:
    try:
        entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{root} cannot be listed: {error.strerror}") from error
    return {entry.name: entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")}


def _images(folder: Path) -> list[Path]:
    """Every image below `folder`, sorted by path; hidden files and folders are left out."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if _is_image(name)]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
