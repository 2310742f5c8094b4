"""ImageNet: readable names for `n01440764`, validation images in one flat folder, and the sets that test a model
trained on it: ReaL, V2, A and R."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from leanformer.checkpoints.files import read_json
from leanformer.data.labeled import LabeledImages, check_distinct, keys_of
from leanformer.data.preprocess import printable
from leanformer.data.stored import LabelSets, StoredImages
from leanformer.errors import DataError

WNID = re.compile(r"n\d{8}")
NAME_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
TRUTH_FILES = (
    "LOC_val_solution.csv",
    "val_map.txt",
    "val.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "ILSVRC2012_validation_ground_truth.txt",
)
NUM_CLASSES = 1000
NUM_VAL = 50_000
KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")


def readable(keys: tuple[str, ...], root: Path) -> tuple[str, ...]:
    """What the classes are called: `tench` for the folder `n01440764`, from a file of names in the root or timm's
    list. Two classes of one name are told apart by their folders; other folders keep their names.

    Raises:
        DataError: if the names of two other folders are written alike.
    """
    if not keys or not all(WNID.fullmatch(key) for key in keys):
        written = tuple(printable(key) for key in keys)
        check_distinct(written, [f"folder {os.fsencode(key)!r}" for key in keys], root)
        return written
    file = next((root / name for name in NAME_FILES if (root / name).is_file()), None)
    words = _words(file) if file is not None else _timm_words()
    names = [words.get(key, key) for key in keys]
    counts = Counter(names)
    return tuple(f"{name} ({key})" if counts[name] > 1 else name for key, name in zip(keys, names, strict=True))


def flat_labels(root: Path, at: str, names: list[str], keys: tuple[str, ...]) -> np.ndarray:
    """The labels of the images `names` of the folder `at`, which has no class folders, from a file of the truth.

    Raises:
        DataError: if there is no such file, or it does not speak of all images.
    """
    places = [
        root,
        root / at,
        *(root / name for name in ("devkit", "data", "devkit/data", "ILSVRC2012_devkit_t12/data")),
    ]
    places += [root.parents[2]] if root.parts[-3:] == KAGGLE.parts else []
    files = [place / name for place in places for name in TRUTH_FILES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise DataError(
            f"{root / at} holds no class folders, and no file says the class of its {len(names)} images; "
            f"put one of {', '.join(TRUTH_FILES)} into {root}, or the images into folders val/<class>"
        )
    truth = _truth(file, keys)
    if isinstance(truth, list):
        if len(truth) != len(names):
            raise DataError(f"{file} has {len(truth)} lines for the {len(names)} images of {root / at}")
        found: list[str | None] = list(truth)
    else:
        found = [truth.get(Path(name).stem) for name in names]
    numbers = {key: label for label, key in enumerate(keys)}
    for name, key in zip(names, found, strict=True):
        if key not in numbers:
            what = "does not name" if key is None else f"gives the class {key!r}, which train lacks, to"
            raise DataError(f"{file} {what} {printable(name)}")
    return np.array([numbers[key] for key in found if key is not None], np.int64)


def as_imagenet(data: LabeledImages) -> StoredImages:
    """A test set whose folders are classes of ImageNet-1k, by wnid (-A, -R) or number (-V2), with labels and classes
    of the whole 1000: evaluate it as the validation set, restricted to `present_classes` where the set asks for it.

    Raises:
        DataError: if a class is none of the 1000.
    """
    keys, wnids = keys_of(data), imagenet_classes()
    numbers = imagenet_numbers(keys)
    if numbers is None or not isinstance(data, StoredImages):
        unknown = [key for key in keys if imagenet_numbers([key]) is None]
        shown = ", ".join(map(repr, unknown[:3])) or "one that lies in no folder or archive"
        raise DataError(f"a test set of ImageNet has classes like n01440764 or 0 to 999; found {shown}")
    mapped = np.array(numbers, np.int64)[data.labels]
    return StoredImages(data.store, data.members, mapped, readable(wnids, Path()), wnids)


def present_classes(data: LabeledImages) -> np.ndarray:
    """The numbers of the classes that have an image, sorted: ImageNet-A and -R are measured among their 200 alone."""
    return np.unique(data.labels)


def with_real_labels(data: StoredImages, file: Path | None = None) -> StoredImages:
    """The 50 000 validation images of ImageNet with the labels of ReaL (https://arxiv.org/abs/2006.07159), several for
    some; images without any are left out.

    Args:
        file: its JSON file, one list of labels for each image in the order of the names; None: timm's copy.
    """
    sets = real_labels(data, file)
    kept = [index for index, labels in enumerate(sets) if labels]
    several = LabelSets([sets[index] for index in kept], len(data.classes))
    return StoredImages(data.store, data.members[kept], several.first(), data.classes, data.keys, several)


def real_labels(data: LabeledImages, file: Path | None = None) -> list[list[int]]:
    """The numbers of the classes that ReaL gives each of these validation images, found by its name.

    Args:
        file: as for `with_real_labels`.

    Raises:
        DataError: for an image by another name, or a file that does not hold lists of numbers of classes.
        CheckpointError: if the file cannot be read.
    """
    if file is None:
        from timm.data.real_labels import RealLabelsImagenet

        sets = RealLabelsImagenet(range(NUM_VAL)).real_labels
        name_to_set = {Path(name).stem: labels for name, labels in sets.items()}
    else:
        lists = read_json(file)
        if not isinstance(lists, list) or not all(isinstance(labels, list) for labels in lists):
            raise DataError(f"{file} holds no ReaL labels: expected a list with a list of numbers for each image")
        for number, labels in enumerate(lists, 1):
            odd = [label for label in labels if not _is_class(label)]
            if odd:
                raise DataError(
                    f"{file} gives image {number} the label {json.dumps(odd[0])}; ReaL labels are whole numbers from 0 "
                    f"to {NUM_CLASSES - 1}"
                )
        name_to_set = {f"ILSVRC2012_val_{n:08d}": labels for n, labels in enumerate(lists, 1)}
    stems = [Path(data.name(index)).stem for index in range(len(data))]
    missing = next((stem for stem in stems if stem not in name_to_set), None)
    if missing is not None:
        raise DataError(f"ReaL labels the images ILSVRC2012_val_00000001 to _{len(name_to_set):08d}, not {missing!r}")
    return [name_to_set[stem] for stem in stems]


def _is_class(label: object) -> bool:
    return type(label) is int and 0 <= label < NUM_CLASSES


def share_among(predictions: np.ndarray, indices: np.ndarray, sets: LabelSets) -> float:
    """The share of predictions that are among the labels of the images with these numbers, as ReaL counts."""
    right = [int(best) in sets[int(index)] for best, index in zip(predictions, indices, strict=True)]
    return sum(right) / len(right)


def imagenet_numbers(keys: Sequence[str]) -> list[int] | None:
    """The number of each class among the 1000, of which the keys are the wnids or the numbers; None if they are
    neither."""
    if all(key.isdecimal() and int(key) < NUM_CLASSES for key in keys):
        return [int(key) for key in keys]
    numbers = {wnid: number for number, wnid in enumerate(imagenet_classes())}
    return [numbers[key] for key in keys] if all(key in numbers for key in keys) else None


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 wnids in the order of the models' outputs, which is that of the folders."""
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


@cache
def _timm_words() -> dict[str, str]:
    from timm.data.imagenet_info import ImageNetInfo

    words = {}
    for subset in ("imagenet22k", "imagenet-1k"):
        info = ImageNetInfo(subset)
        words |= {wnid: info.label_name_to_description(wnid).partition(",")[0] for wnid in info.label_names()}
    return words


def _words(file: Path) -> dict[str, str]:
    """wnid -> its first name, from lines `n01440764 tench, Tinca tinca`."""
    lines = file.read_text("utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {pair[0]: pair[-1].partition(",")[0].strip() for pair in pairs}


def _truth(file: Path, keys: Sequence[str]) -> list[str] | dict[str, str]:
    """The classes in the order of the images, or by the stem of each image's name."""
    if file.suffix == ".csv":
        with file.open(newline="") as lines:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(lines)}
    rows = [line.split() for line in file.read_text("utf-8").splitlines() if line.strip()]
    if all(len(row) >= 2 for row in rows):
        return {Path(row[0]).stem: _key(row[1], keys) for row in rows}
    if all(WNID.fullmatch(row[0]) for row in rows):
        return [row[0] for row in rows]
    order = file.parent / "map_clsloc.txt"
    if not order.is_file():
        raise DataError(
            f"{file} counts the classes in the order of the development kit, which {order} would give (lines "
            "`n02119789 1 kit_fox`); add it, or one of the other files of the truth"
        )
    numbered = {line.split()[1]: line.split()[0] for line in order.read_text().splitlines() if line.strip()}
    return [numbered.get(row[0], row[0]) for row in rows]


def _key(label: str, keys: Sequence[str]) -> str:
    """The class of a label that is a class, or its number in the order of the folders."""
    return keys[int(label)] if label.isdigit() and int(label) < len(keys) else label
