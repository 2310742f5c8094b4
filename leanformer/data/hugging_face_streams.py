"""Data sets of Hugging Face as streams: from the hub or from files, read again in every epoch, no copy kept."""

from __future__ import annotations

import hashlib
import json
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leanformer.checkpoints.fetch import cache_folder
from leanformer.checkpoints.files import read_json, write_text
from leanformer.data import hugging_face
from leanformer.data.folders import Split, divide
from leanformer.data.hugging_face import HUGGING_FACE
from leanformer.data.labeled import LabeledImages
from leanformer.data.options import DataOptions
from leanformer.data.stored import LabelSets
from leanformer.data.streams import Stream, StreamedImages
from leanformer.data.unpacked import alone
from leanformer.errors import CheckpointError, DataError, TrainingError, require

log = logging.getLogger(__name__)

BROKEN = (OSError, ValueError, KeyError, EOFError, RuntimeError, tarfile.TarError)
"""What reading from files or over a network may end with, besides the errors of `datasets`."""

ROWS = 8
"""That are read at a time."""


def open_stream(source: str | Path, split: Split, options: DataOptions) -> LabeledImages:
    """The side `split` of a data set of Hugging Face, read from front to back.

    The first time its labels are read, which says how many images there are; of parquet files nothing else is read for
    that, of other files everything. They are kept in the cache. What `save_to_disk` wrote lies on the disk already, and
    is read by its places.

    Raises:
        MissingExtra: without the `data` extra.
        DataError: if it cannot be loaded, has no column of images or of labels, or is neither files nor of the hub.
    """
    datasets = require("datasets", extra="data")
    where = _Where.of(source)
    if where.is_saved:
        return hugging_face.open_hugging_face(source, split, options)
    try:
        splits = dict(datasets.load_dataset(*where.name, streaming=True, **where.files))
        side, has_val = hugging_face.side_of(splits, split, source)
        rows = splits[side]
        if rows.features is None:
            raise DataError(f"{source} does not say what its columns hold; only tables that do can be streamed")
        image, label = hugging_face.columns(rows, source, options, datasets)
        counted = _count(datasets, where, side, label)
        of_train = "train" if "train" in splits else side
        labels, several, classes = hugging_face.numbered_labels(
            rows.features[label], label, counted.values, lambda: _count(datasets, where, of_train, label).values
        )
    except (*BROKEN, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{source} cannot be streamed: {error}") from error
    chosen = np.arange(len(labels))
    if not has_val:
        numbers = [str(number) for number in range(len(labels))]
        chosen = divide(numbers, labels, split, options.val_share, source, "number")
        several = None if several is None else LabelSets([several[int(n)] for n in chosen], len(classes))
    pictures = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    stream = Stream(_Rows(pictures, image, str(source)), counted.sizes)
    return StreamedImages(stream, chosen, labels[chosen], classes, several, options.shuffle_buffer)


@dataclass(frozen=True)
class _Where:
    """What `load_dataset` is to be asked for."""

    name: tuple[str, ...]
    files: dict[str, str]
    is_saved: bool = False

    @classmethod
    def of(cls, source: str | Path) -> _Where:
        name = str(source).removeprefix(HUGGING_FACE)
        path = Path(name).expanduser()
        if path.is_dir():
            return cls((str(path),), {}, hugging_face.is_table(path))
        if path.is_file():
            kind = {".parquet": "parquet", ".tar": "webdataset", ".arrow": "arrow"}.get(path.suffix.lower())
            if kind is None:
                raise DataError(f"{path} cannot be streamed; give a .parquet or .tar file, or a folder of them")
            return cls((kind,), {"data_files": str(path)})
        if not str(source).startswith(HUGGING_FACE):
            raise DataError(f"there is no {path} to stream; a data set of the hub is written {HUGGING_FACE}owner/name")
        return cls(hugging_face.name_and_config(name), {})


@dataclass(frozen=True)
class _Counted:
    """The length of each shard, and the label of each row as it is written there."""

    sizes: list[int]
    values: list[Any]


def _count(datasets: Any, where: _Where, side: str, label: str) -> _Counted:
    """What the labels of one side say, from the cache unless the files have changed."""
    builder = datasets.load_dataset_builder(*where.name, **where.files)
    files = (builder.config.data_files or {}).get(side)
    key = json.dumps([where.name, side, label, list(map(str, files or ())), getattr(files, "origin_metadata", None)])
    kept = cache_folder() / "streams" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with alone(kept.parent / kept.stem):  # the others of a run find what the first has read
        counted = _recall(kept) if files else None
        if counted is None:
            counted = _read_labels(datasets, where, side, label, builder.name == "parquet")
            _remember(kept, counted, where)
    return counted


def _read_labels(datasets: Any, where: _Where, side: str, label: str, has_columns: bool) -> _Counted:
    title = "/".join(where.name)
    only = {"columns": [label]} if has_columns else {}
    if not only:
        log.warning("%s: all of it is read once, to count its images and know their labels", title)
    rows = datasets.load_dataset(*where.name, streaming=True, **where.files, **only)[side].select_columns([label])
    shards = [[row[label] for row in rows.shard(rows.num_shards, index)] for index in range(rows.num_shards)]
    values = [value for shard in shards for value in shard]
    log.info("%s: %d images in %d shards on side %s", title, len(values), len(shards), side)
    return _Counted([len(shard) for shard in shards], values)


def _recall(kept: Path) -> _Counted | None:
    try:
        found = read_json(kept) if kept.is_file() else None
        return None if found is None else _Counted(found["sizes"], found["values"])
    except (CheckpointError, LookupError, TypeError):
        log.info("%s is damaged and made again", kept)
        return None


def _remember(kept: Path, counted: _Counted, where: _Where) -> None:
    try:
        write_text(kept, json.dumps({"sizes": counted.sizes, "values": counted.values}))
    except (CheckpointError, TypeError) as error:
        log.info("the labels of %s are not kept: %s", "/".join(where.name), error)


class _Rows:
    """The images of a streamed table, shard by shard."""

    def __init__(self, rows: Any, column: str, title: str) -> None:
        self.pictures, self.column, self.title = rows, column, title

    def rows(self, shard: int) -> Iterator[bytes]:
        """The encoded images of a shard; empty where one is missing.

        Raises:
            TrainingError: if reading breaks off.
        """
        errors = require("datasets", extra="data").exceptions
        try:
            # Rows one by one would be divided among the workers of a loader.
            for rows in self.pictures.shard(self.pictures.num_shards, shard).iter(ROWS):
                yield from map(_encoded, rows[self.column])
        except (*BROKEN, errors.DatasetsError) as error:
            raise TrainingError(
                f"{self.title}: reading broke off in shard {shard} ({type(error).__name__}: {error}); "
                "the run goes on from its last checkpoint by --resume"
            ) from error


def _encoded(value: dict[str, Any] | None) -> bytes:
    if value is None:
        return b""
    data, path = value.get("bytes"), value.get("path")
    if data is None and path and Path(path).is_file():
        return Path(path).read_bytes()
    return data or b""
