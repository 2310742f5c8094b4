"""Images in zip and tar archives, read by their place alone: where every member lies is found once, and remembered."""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from leanformer.checkpoints.fetch import cache_folder
from leanformer.checkpoints.files import write_bytes
from leanformer.data.preprocess import open_image, printable
from leanformer.data.stored import Names
from leanformer.data.unpacked import is_compressed, unpacked
from leanformer.errors import CheckpointError, DataError

log = logging.getLogger(__name__)

VERSION = 2
MAX_OPEN = 64
LOCAL_HEADER = 30
SIDECARS = (".cls", ".json", ".txt")
"""Members of a tar that say something about the image of the same name; their text is kept with the index."""
LARGEST_SIDECAR = 1 << 16
LARGEST_MEMBER = 1 << 29
"""Bytes of an image, unpacked; a small member that unpacks to more would fill the memory."""


@dataclass(frozen=True)
class Index:
    """Where the members of an archive lie in it."""

    path: Path
    names: Names
    notes: Names
    """The text of each sidecar of a tar; empty for the others."""
    places: np.ndarray
    """int64 (N, 4): offset, bytes in the archive, bytes that they inflate to or -1, checksum or -1."""


def index_of(path: Path) -> Index:
    """The index of the zip or tar at `path`, from the cache if the file has not changed since; that of an archive which
    is compressed as a whole is of the tar that it was unpacked to.

    Raises:
        DataError: if the archive is missing, truncated, damaged or encrypted.
    """
    if is_compressed(path):
        path = unpacked(path)
    try:
        facts = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    key = f"{VERSION}\0{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}"
    kept = cache_folder() / "archives" / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.npz"
    found = _recall(kept, path)
    if found is None:
        found = _make(path, list(_zip_rows(path) if path.suffix.lower() == ".zip" else _tar_rows(path)))
        _remember(kept, found)
    return found


class Archives:
    """The members of one archive after another; worker processes open the files for themselves."""

    def __init__(self, indices: Sequence[Index]) -> None:
        self.indices = tuple(indices)
        self._ends = np.cumsum([len(index.names) for index in self.indices])
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def image(self, number: int) -> Image.Image:
        """The image as RGB."""
        source = BytesIO(self.read(number))
        source.name = self.name(number)  # type: ignore[attr-defined] - what messages call it
        return open_image(source)

    def name(self, number: int) -> str:
        """The archive's name and the member's path in it, as `photos.zip/cat/1.jpg`."""
        index, member = self._find(number)
        return printable(f"{index.path.name}/{index.names[member]}")

    def member(self, number: int) -> str:
        """The member's path in its archive."""
        index, member = self._find(number)
        return index.names[member]

    def note(self, number: int) -> str:
        """The text of a sidecar."""
        index, member = self._find(number)
        return index.notes[member]

    def read(self, number: int) -> bytes:
        """The content of a member.

        Raises:
            DataError: if the archive ends before it, its content does not fit its checksum, or it is too large.
        """
        index, member = self._find(number)
        offset, size, inflated, checksum = index.places[member].tolist()
        try:
            file = self._file(number)
            if index.path.suffix.lower() == ".zip":
                file.seek(offset)
                header = file.read(LOCAL_HEADER)
                offset += LOCAL_HEADER + int.from_bytes(header[26:28], "little")
                offset += int.from_bytes(header[28:30], "little")
            if (most := max(size, inflated)) > LARGEST_MEMBER:
                raise OSError(f"it has {most / 2**20:.0f} MB, more than the {LARGEST_MEMBER >> 20} MB of any image")
            file.seek(offset)
            data = file.read(size)
            if len(data) < size:
                raise OSError("the archive ends within it")
            data = _inflate(data, inflated) if inflated >= 0 else data
            if checksum >= 0 and zlib.crc32(data) != checksum:
                raise OSError("its checksum is wrong")
        except (OSError, zlib.error) as error:
            raise DataError(f"{self.name(number)} cannot be read: {error}") from error
        return data

    def _find(self, number: int) -> tuple[Index, int]:
        archive = int(np.searchsorted(self._ends, number, "right"))
        return self.indices[archive], number - (int(self._ends[archive - 1]) if archive else 0)

    def _file(self, number: int) -> BinaryIO:
        archive = int(np.searchsorted(self._ends, number, "right"))
        if archive not in self._open:
            self._open[archive] = self.indices[archive].path.open("rb")
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(archive)
        return self._open[archive]


def _inflate(data: bytes, size: int) -> bytes:
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    if len(content) != size:
        raise OSError(f"it unpacks to {'more' if len(content) > size else 'less'} than the {size} bytes it should have")
    return content


Row = tuple[str, str, int, int, int, int]


def _make(path: Path, rows: list[Row]) -> Index:
    places = np.array([row[2:] for row in rows], np.int64).reshape(-1, 4)
    return Index(path, Names(row[0] for row in rows), Names(row[1] for row in rows), places)


def _zip_rows(path: Path) -> Iterator[Row]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"{path} is truncated, or no zip archive: {error}") from error
    for info in members:
        if info.is_dir():
            continue
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            what = "encrypted" if info.flag_bits & 1 else f"compressed by method {info.compress_type}"
            raise DataError(f"{path}: {info.filename} is {what}; pack the images again, stored or deflated")
        inflated = info.file_size if info.compress_type == zipfile.ZIP_DEFLATED else -1
        yield info.filename, "", info.header_offset, info.compress_size, inflated, info.CRC


def _tar_rows(path: Path) -> Iterator[Row]:
    size, last = path.stat().st_size, "its first member"
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if not info.isreg():
                    continue
                end = info.offset_data + info.size
                if end > size:
                    raise DataError(f"{path} is truncated: {info.name} ends {end - size} bytes after the archive")
                last, note = info.name, ""
                if info.name.endswith(SIDECARS) and info.size <= LARGEST_SIDECAR:
                    content = archive.extractfile(info)
                    note = content.read().decode("utf-8", "replace") if content else ""
                yield info.name.removeprefix("./"), note, info.offset_data, info.size, -1, -1
            end = archive.offset
        with path.open("rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise DataError(f"{path} is truncated or damaged after {last}: the mark of its end is missing")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} is truncated or damaged after {last}, or no tar archive: {error}") from error


def _recall(kept: Path, path: Path) -> Index | None:
    """The index in the cache; None if there is none, or none that is whole."""
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            names = Names.of_arrays(arrays["names"], arrays["name_ends"])
            notes = Names.of_arrays(arrays["notes"], arrays["note_ends"])
            return Index(path, names, notes, arrays["places"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _remember(kept: Path, index: Index) -> None:
    """Keep the index, whole or not at all; a cache that cannot be written is done without."""
    buffer = BytesIO()
    names, notes = index.names, index.notes
    arrays = {"names": names.text, "name_ends": names.ends, "notes": notes.text, "note_ends": notes.ends}
    np.savez(buffer, places=index.places, **arrays)
    try:
        write_bytes(kept, buffer.getvalue())
    except CheckpointError as error:
        log.info("the index of %s is not kept: %s", index.path, error)
