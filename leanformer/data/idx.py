"""Images in idx files, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST: whole arrays, gzip or plain."""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from leanformer.data import garments
from leanformer.data.folders import REMEDY, Split, divide
from leanformer.data.labeled import ArrayImages, check_distinct
from leanformer.data.options import DataOptions
from leanformer.errors import DataError

NAME = re.compile(r"(?P<set>|.+[-_])(?P<side>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
SIDES: dict[str, Split] = {"train": "train", "t10k": "val", "test": "val"}
NUM_AXES = {"images": 3, "labels": 1}
GZIP = b"\x1f\x8b"
UNSIGNED_BYTES = b"\x00\x00\x08"
KNOWN = {"657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7": garments.CLASSES}
"""SHA-256 of the training labels, one byte each -> the names of the classes, for sets whose files do not hold them."""

Files = dict[tuple[Split, str], Path]
"""(side, images or labels) -> the file."""


def is_idx(path: Path) -> bool:
    """Whether a file is called like one of a set, such as `train-images-idx3-ubyte.gz`."""
    return NAME.fullmatch(path.name) is not None


def open_idx(path: Path, split: Split, options: DataOptions) -> ArrayImages:
    """The side `split` of the set in a folder, or of the one that a file belongs to.

    `t10k` or `test` is the side for validation; without it the training images are divided by a hash of their numbers.
    EMNIST's images are stored mirrored about the diagonal and are turned upright.

    Raises:
        DataError: if a file is missing, damaged or of another kind, if images and labels are not as many, or if the
            folder holds several sets.
    """
    folder = path.parent if path.is_file() else path
    sets = _sets(folder.iterdir())
    if path.is_file():
        name = _parts(path)["set"]
    elif len(sets) == 1:
        name = next(iter(sets))
    else:
        shown = ", ".join(sorted(next(iter(files.values())).name for files in sets.values()))
        raise DataError(f"{folder} holds {len(sets)} sets of idx files; give a file of one of them: {shown}")
    return _open_set(folder, name, sets[name], split, options)


def _open_set(folder: Path, name: str, files: Files, split: Split, options: DataOptions) -> ArrayImages:
    if ("train", "images") not in files and ("train", "labels") not in files:
        raise DataError(f"{folder} holds no {name}train-images-idx3-ubyte(.gz) to train on")
    known = _labels(folder, files, "train")
    keys, classes = _classes(folder, name, known)
    side: Split = split if any(found == split for found, _ in files) else "train"
    labels = known if side == "train" else _labels(folder, files, side)
    unknown = np.setdiff1d(labels, keys)
    if len(unknown):
        raise DataError(f"{files[side, 'labels']} has the label {unknown[0]}, unknown among the {len(keys)} classes")
    images_file = _file(folder, files, side, "images")
    pixels = read_idx(images_file, NUM_AXES["images"])
    if len(pixels) != len(labels):
        raise DataError(f"{images_file} holds {len(pixels)} images, {files[side, 'labels']} {len(labels)} labels")
    if name.startswith("emnist"):
        pixels = pixels.transpose(0, 2, 1)
    labels = np.searchsorted(keys, labels)
    title = f"{folder.name}/{name}{side}"
    if any(found == "val" for found, _ in files):
        return ArrayImages(pixels, labels, classes, title)
    numbers = [str(number) for number in range(len(labels))]
    chosen = divide(numbers, labels, split, options.val_share, folder, "number")
    if not len(chosen):
        raise DataError(f"{folder} holds no t10k-images-idx3-ubyte(.gz), and val_share leaves none for val; {REMEDY}")
    return ArrayImages(pixels[chosen], labels[chosen], classes, f"{title}/{split}")


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """The array of unsigned bytes in an idx file, gzip or not whatever its name says.

    Raises:
        DataError: if it cannot be read, or its header does not fit the file or the number of axes.
    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            header = file.read(4 + 4 * num_axes)
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; get the file again") from error
    shape = _shape(path, header, num_axes)
    size = math.prod(shape)
    if len(content) < size:
        raise DataError(f"{path} is cut off: {len(content)} bytes of the {size} that its header promises; get it again")
    if len(content) > size:
        raise DataError(f"{path} goes on after the {size} bytes that its header promises; get it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, num_axes: int) -> tuple[int, ...]:
    magic = header[:4]
    if magic[:3] != UNSIGNED_BYTES or len(magic) < 4:
        raise DataError(f"{path} is no idx file of unsigned bytes: it begins with {magic.hex(' ') or 'nothing'}")
    if magic[3] != num_axes:
        raise DataError(f"{path} holds an array of {magic[3]} axes; expected {num_axes}")
    if len(header) < 4 + 4 * num_axes:
        raise DataError(f"{path} is cut off within its header")
    shape = tuple(np.frombuffer(header, ">u4", offset=4).tolist())
    if 0 in shape:
        raise DataError(f"{path} holds nothing: its shape is {shape}")
    return shape


def _sets(entries: Iterable[Path]) -> dict[str, Files]:
    """The files of each set, by what its names begin with: nothing, or `emnist-letters-`. Of a file that lies there
    packed and unpacked, the latter."""
    sets: dict[str, Files] = {}
    for path in sorted(entries, reverse=True):  # .gz before the same name without it
        if is_idx(path):
            parts = _parts(path)
            sets.setdefault(parts["set"], {})[SIDES[parts["side"]], parts["what"]] = path
    return sets


def _parts(path: Path) -> dict[str, str]:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return match.groupdict()


def _file(folder: Path, files: Files, side: Split, what: str) -> Path:
    if (side, what) not in files:
        beside = next(path for (found, _), path in files.items() if found == side)
        raise DataError(f"{folder} holds {beside.name}, but not the {what} that belong to it")
    return files[side, what]


def _labels(folder: Path, files: Files, side: Split) -> np.ndarray:
    return read_idx(_file(folder, files, side, "labels"), NUM_AXES["labels"])


def _classes(folder: Path, name: str, labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels that a set uses, sorted, and the name of each: from EMNIST's mapping, if it is there, or known by the
    training labels, else the labels themselves."""
    mapping = folder / f"{name}mapping.txt"
    if mapping.is_file():
        named = _mapping(mapping)
        check_distinct([named[key] for key in sorted(named)], [f"label {key}" for key in sorted(named)], mapping)
        return np.array(sorted(named)), tuple(named[key] for key in sorted(named))
    keys = np.arange(labels.max() + 1) if labels.min() == 0 else np.unique(labels)
    return keys, KNOWN.get(hashlib.sha256(labels.tobytes()).hexdigest(), tuple(map(str, keys)))


def _mapping(file: Path) -> dict[int, str]:
    """label -> its characters, from lines of the label and the codes of the characters that it stands for."""
    try:
        rows = [[int(word) for word in line.split()] for line in file.read_text("ascii").splitlines() if line.strip()]
        return {label: "/".join(map(chr, codes)) for label, *codes in rows if codes}
    except (ValueError, OverflowError) as error:
        raise DataError(f"{file} does not hold lines of numbers like '1 65 97': {error}") from error
