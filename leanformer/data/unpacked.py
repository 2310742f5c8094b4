"""Archives that are compressed as a whole: no image in them can be read by its place, so they are unpacked once."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import logging
import lzma
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leanformer.checkpoints.fetch import cache_folder
from leanformer.checkpoints.files import write_chunks
from leanformer.errors import CheckpointError, DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

OPENERS: dict[str, Callable[[Path], Any]] = {
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tbz2": bz2.open,
    ".tar.xz": lzma.open,
    ".txz": lzma.open,
}
COMPRESSED = (*OPENERS, ".tar.zst")
CHUNK = 1 << 20


def is_compressed(path: Path) -> bool:
    """Whether the name is that of a tar compressed as a whole."""
    return path.name.lower().endswith(COMPRESSED)


def ending(path: Path) -> str:
    """What the kind of a file follows from: its ending in small letters, `.tar` for a compressed tar too."""
    return ".tar" if is_compressed(path) else path.suffix.lower()


def unpacked(path: Path) -> Path:
    """The plain tar in the cache that a compressed one unpacks to, unpacked if it is not there or the file has changed.

    Raises:
        DataError: if the archive is missing or damaged, its compression has no reader here, or the cache has no room.
    """
    packing = next(packing for packing in COMPRESSED if path.name.lower().endswith(packing))
    if packing not in OPENERS:
        raise DataError(f"{path}: {packing[5:]} has no reader here; unpack it to a plain .tar (zstd -d {path.name})")
    try:
        facts = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    key = f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}"
    folder = cache_folder() / "unpacked" / hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    target = folder / f"{path.name[: -len(packing)]}.tar"
    if not target.is_file():
        with alone(folder):
            if not target.is_file():
                _unpack(path, OPENERS[packing], target, facts.st_size)
    return target


def _unpack(path: Path, opener: Callable[[Path], Any], target: Path, size: int) -> None:
    free = shutil.disk_usage(target.parent).free
    where = f"{target.parent.parent} (LEANFORMER_CACHE chooses another place)"
    if free < size:
        raise DataError(f"{path} is to be unpacked to {where}, which has {free / 1e9:.1f} GB free of {size / 1e9:.1f}")
    log.warning(
        "%s is compressed as a whole, so it is unpacked once, to %s: %.1f GB or more, which stay until you remove "
        "them; images hardly shrink, so a plain .tar saves that",
        path,
        where,
        size / 1e9,
    )
    try:
        write_chunks(target, _chunks(path, opener), size)
    except CheckpointError as error:
        raise DataError(f"{path} cannot be unpacked: {error}") from error


def _chunks(path: Path, opener: Callable[[Path], Any]) -> Iterator[bytes]:
    """The content, unpacked; its own errors are told from those of writing."""
    try:
        with opener(path) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} is truncated or damaged: {error}") from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one process at a time is in such a block for a folder of the cache, which is made; where there are no locks,
    each goes on.

    Raises:
        DataError: if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be made ({error.strerror}); LEANFORMER_CACHE chooses another place"
        ) from error
    with lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                log.info("%s is on a file system without locks", folder)
        yield
