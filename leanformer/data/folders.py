"""Labels from folders: `root/train/<class>/...` and its like, in the file system or in an archive."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from leanformer.data.trees import EXTENSIONS, Tree, join
from leanformer.errors import DataError, suggestion

log = logging.getLogger(__name__)

Split = Literal["train", "val"]
VAL_NAMES = ("val", "valid", "validation", "test")
VAL_SHARE = 0.2
REMEDY = "give a share above 0, or images to validate on"
LAYOUT = "expected ROOT/train/<class>/*.jpg and ROOT/val/<class>/*.jpg, or ROOT/<class>/*.jpg"

FlatLabels = Callable[[str, list[str], tuple[str, ...]], np.ndarray]
"""(place, images, folders of train) -> the labels of a val folder without class folders."""


@dataclass(frozen=True)
class Labeled:
    """One side of a data set: paths in the tree, a label each, and the folders that the labels count."""

    names: list[str]
    labels: np.ndarray
    keys: tuple[str, ...]


def class_folders(tree: Tree, split: Split, val_share: float = VAL_SHARE, flat: FlatLabels | None = None) -> Labeled:
    """The side `split` of a tree, which holds both sides or is divided by a hash of each image's path.

    Args:
        flat: what labels the images of a val folder that has no class folders; None refuses such a folder.
    """
    train, val = _split_folders(tree)
    if val is None:
        return _divided(tree, train or "", split, val_share)
    if train is None:
        if split == "train":
            raise DataError(f"{tree.title('')} holds {val!r} but no 'train' folder to train on; {LAYOUT}")
        return _by_class(tree, val, tree.folders(val))
    keys = tree.folders(train)
    if flat is not None and keys and not tree.folders(val) and tree.num_loose(val):
        if split == "val":
            names = tree.images(val)
            return Labeled(names, flat(val, names, keys), keys)
        return _by_class(tree, train, keys)
    _check_classes(tree, train, val)
    return _by_class(tree, val if split == "val" else train, keys)


def divide(
    names: Sequence[str], labels: np.ndarray, split: Split, val_share: float, source: object, by: str = "path"
) -> np.ndarray:
    """The numbers of the images on one side of `source`: about `val_share` are `val`, by a hash of each name, and every
    class with two images or more has at least one on each side. A share of 0 leaves all to train on.

    Args:
        by: what the names are, for the log.
    """
    fractions = np.array([_fraction(name) for name in names])
    side = np.zeros(len(names), bool)
    ranked = np.lexsort((fractions, labels))
    for members in np.split(ranked, np.flatnonzero(np.diff(labels[ranked])) + 1):
        num_val = int((fractions[members] < val_share).sum())
        num_val = min(max(num_val, 1), len(members) - 1) if val_share else 0
        side[members[:num_val]] = True
    chosen = np.flatnonzero(side if split == "val" else ~side)
    log.info(
        "%s has no side for validation: divided by a hash of each image's %s, %d of %d images are %s",
        source,
        by,
        len(chosen),
        len(names),
        split,
    )
    return chosen


def _divided(tree: Tree, at: str, split: Split, val_share: float) -> Labeled:
    whole = _by_class(tree, at, tree.folders(at))
    inside = [name[len(at) + 1 :] if at else name for name in whole.names]
    title = tree.title(at)
    chosen = divide(inside, whole.labels, split, val_share, title)
    if len(chosen) == 0 and val_share == 0:
        raise DataError(f"{title} has no val folder, and val_share 0 leaves none of its images for val; {REMEDY}")
    if len(chosen) == 0:
        raise DataError(
            f"{title} has one image per class, so none is left for val; add images or a val folder: {LAYOUT}"
        )
    return Labeled([whole.names[number] for number in chosen], whole.labels[chosen], whole.keys)


def _split_folders(tree: Tree) -> tuple[str | None, str | None]:
    """The folders of the two splits; neither if the root holds classes itself (one of which may be called 'train')."""
    folders = tree.folders("")
    val = next((name for name in VAL_NAMES if name in folders), None)
    train = "train" if "train" in folders else None
    if train is not None and (tree.folders(train) or set(folders) <= {"train", *VAL_NAMES}):
        return train, val
    if train is None and set(folders) <= set(VAL_NAMES):
        return None, val
    return None, None


def _check_classes(tree: Tree, train: str, val: str) -> None:
    classes = tree.folders(train)
    known = set(classes)
    for name in tree.folders(val):
        if name not in known:
            raise DataError(
                f"class {name!r} of {tree.title(val)} is unknown to {tree.title(train)}{suggestion(name, classes)}\n"
                f"  every class to validate on needs a folder of that name in {tree.title(train)}"
            )


def _by_class(tree: Tree, at: str, keys: tuple[str, ...]) -> Labeled:
    """The images below `at`, whose folders are among `keys`."""
    folders = tree.folders(at)
    if not folders:
        found = tree.num_loose(at)
        hint = f"; its {found} images lie in no class folder" if found else ""
        raise DataError(f"{tree.title(at)} holds no class folders{hint}; {LAYOUT}")
    numbers = {name: label for label, name in enumerate(keys)}
    names, labels = [], []
    for folder in folders:
        found = tree.images(join(at, folder))
        if not found:
            endings = " ".join(sorted(ending[1:] for ending in EXTENSIONS))
            raise DataError(
                f"class {folder!r} has no images in {tree.title(join(at, folder))}; "
                f"add some ({endings}) or remove the folder"
            )
        names += found
        labels.append(np.full(len(found), numbers[folder], np.int64))
    return Labeled(names, np.concatenate(labels), keys)


def _fraction(name: str) -> float:
    """A number in 0..1 that depends on the path alone."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
