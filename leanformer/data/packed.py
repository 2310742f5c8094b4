"""Images with labels in archives: zip files, tar files of folders, and WebDataset shards."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from leanformer.data.archives import Archives, index_of
from leanformer.data.folders import Split, class_folders, divide
from leanformer.data.imagenet import WNID, readable
from leanformer.data.lists import Label, classes_of, numbered, read_rows
from leanformer.data.options import DataOptions
from leanformer.data.stored import StoredImages
from leanformer.data.trees import NameTree, is_image
from leanformer.errors import DataError

MAPS = {"train": "train_map.txt", "val": "val_map.txt"}


def open_folders_in(archives: Sequence[Path], split: Split, options: DataOptions) -> StoredImages:
    """The side `split` of archives that hold class folders, or `train` and `val` with them."""
    store = Archives([index_of(path) for path in archives])
    names = [store.member(number) for number in range(len(store))]
    title = str(archives[0]) if len(archives) == 1 else f"{archives[0]} and {len(archives) - 1} more"
    tree = NameTree(title, names)
    found = class_folders(tree, split, options.val_share)
    members = np.array([tree.numbers[name] for name in found.names], np.int64)
    classes = readable(found.keys, archives[0].parent)
    return StoredImages(store, members, found.labels, classes, found.keys)


def open_pair(train: Path, val: Path, split: Split, options: DataOptions) -> StoredImages:
    """The side `split` of two archives, one for each side, that hold class folders."""
    sides = {
        side: open_folders_in([path], "train", replace(options, val_share=0.0))
        for side, path in (("train", train), ("val", val))
    }
    keys, chosen = sides["train"].keys, sides[split]
    unknown = [key for key in sides["val"].keys if key not in keys]
    if unknown:
        raise DataError(f"class {unknown[0]!r} of {val} is unknown to {train}")
    mapped = np.array([keys.index(key) for key in chosen.keys], np.int64)[chosen.labels]
    return StoredImages(chosen.store, chosen.members, mapped, sides["train"].classes, keys)


def open_mapped(root: Path, split: Split, options: DataOptions) -> StoredImages:
    """The side `split` of `train.zip` with `train_map.txt` (lines `name<TAB>label`), and the same for `val`; without
    the latter it is divided by a hash of the names.

    Raises:
        DataError: if an archive, or a list of its labels, cannot be read, or one of `val` is there without the other.
    """
    has_val = (root / MAPS["val"]).exists()
    if has_val != (root / "val.zip").exists():
        found, missing = ("val.zip", MAPS["val"])[:: -1 if has_val else 1]
        raise DataError(f"{root} holds {found}, but no {missing} to go with it; add it, or move {found} elsewhere")
    side: Split = split if has_val else "train"
    rows = read_rows(root / MAPS[side], options)
    known = rows if side == "train" else read_rows(root / MAPS["train"], options)
    classes = classes_of((label for _, label, _ in known), root)
    store = Archives([index_of(root / f"{side}.zip")])
    numbers = {store.member(number): number for number in range(len(store))}
    missing = next((path for path, _, _ in rows if path not in numbers), None)
    if missing is not None:
        raise DataError(f"{root / MAPS[side]} names {missing!r}, which {side}.zip does not hold")
    members = np.array([numbers[path] for path, _, _ in rows], np.int64)
    labels, several = numbered([label for _, label, _ in rows], classes, str(root / MAPS[side]))
    keys = _folders_of([(path, label) for path, label, _ in known], classes.names)
    chosen = np.arange(len(rows))
    if not has_val:
        chosen = divide([path for path, _, _ in rows], labels, split, options.val_share, root)
    if several is not None:
        raise DataError(f"{root / MAPS[side]} gives several labels to an image; a map gives one")
    return StoredImages(store, members[chosen], labels[chosen], readable(keys, root), keys)


def open_shards(train: Sequence[Path], val: Sequence[Path], split: Split, options: DataOptions) -> StoredImages:
    """The side `split` of WebDataset shards: an image `key.jpg` is labeled by `key.cls`, by `label` in `key.json`, or
    else by its folder, or by the name of a shard like `n01440764.tar`. Without shards for `val`, those of `train` are
    divided by a hash of the keys."""
    if len(train) == 1 and not val and _only_folders(train[0]):
        return open_folders_in(train, split, options)
    shards = val if split == "val" and val else train
    store, members, labels = _samples(shards, options)
    known = labels if shards is train or not train else _samples(train, options)[2]
    classes = classes_of(known, shards[0].parent)
    numbers, several = numbered(labels, classes, str(shards[0]))
    chosen = np.arange(len(members))
    if not val:
        inside = [store.member(int(number)) for number in members]
        chosen = divide(inside, numbers, split, options.val_share, shards[0].parent)
        if len(chosen) == 0:
            raise DataError(f"{shards[0].parent} leaves no image for {split}; give shards for it")
    if several is not None and len(chosen) < len(members):
        _, several = numbered([labels[number] for number in chosen], classes, str(shards[0]))
    return StoredImages(
        store, members[chosen], numbers[chosen], readable(classes.names, shards[0].parent), classes.names, several
    )


def _only_folders(path: Path) -> bool:
    """Whether every image of an archive lies in a folder, with nothing beside it that labels it."""
    index = index_of(path)
    return not any(index.notes) and all("/" in name for name in index.names)


def _samples(shards: Sequence[Path], options: DataOptions) -> tuple[Archives, np.ndarray, list[Label]]:
    """The images of the shards, and the label of each."""
    store = Archives([index_of(path) for path in shards])
    images, notes = [], {}
    start = 0
    for index in store.indices:
        for offset, (name, note) in enumerate(zip(index.names, index.notes, strict=True)):
            if is_image(name.rpartition("/")[2]):
                images.append((start + offset, (index.path, _key(name)), name))
            elif note:
                notes[index.path, _key(name), name.rpartition(".")[2]] = note
        start += len(index.names)
    if not images:
        raise DataError(f"{shards[0]} and the other {len(shards) - 1} shards hold no images")
    labels = [_label_of(name, notes, key[0], key[1], options) for _, key, name in images]
    return store, np.array([number for number, _, _ in images], np.int64), labels


def _key(name: str) -> str:
    """What the members of one sample share: the path up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _label_of(name: str, notes: dict[tuple[Path, str, str], str], shard: Path, key: str, options: DataOptions) -> Label:
    text = notes.get((shard, key, "cls"))
    if text is None and (record := notes.get((shard, key, "json"))) is not None:
        try:
            value = json.loads(record)
            value = value.get(options.label_column or "label", value.get("cls")) if isinstance(value, dict) else value
        except (ValueError, RecursionError) as error:
            raise DataError(f"{shard}: {key}.json cannot be read: {error}") from error
        if isinstance(value, list):
            return [str(item) for item in value]
        text = None if value is None else str(value)
    if text is None:
        text = key.rpartition("/")[0].rpartition("/")[2] or (shard.stem if WNID.fullmatch(shard.stem) else None)
    if text is None:
        raise DataError(f"{shard}: {name} has no label: no {key}.cls, no `label` in {key}.json, no folder")
    text = text.strip()
    return re.split(r"\s*[;|]\s*", text) if options.multi_label else text


def _folders_of(rows: list[tuple[str, Label]], names: tuple[str, ...]) -> tuple[str, ...]:
    """The folder of each class where every label has one folder of its own; else the names."""
    pairs = {(label, path.split("/")[-2]) for path, label in rows if "/" in path and isinstance(label, str)}
    folders = {str(label): folder for label, folder in pairs}
    if len(pairs) == len(folders) == len(set(folders.values())) == len(names) and set(folders) == set(names):
        return tuple(folders[name] for name in names)
    return names
