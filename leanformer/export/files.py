"""Exported files reach their place whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from leanformer.errors import ExportError


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `path`; what the disk refuses is an error that names `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            yield Path(folder)
    except OSError as error:
        raise ExportError(f"{path}: could not be written ({error.strerror or error})") from error


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder and below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def move_in(written: Path, target: Path, suffix: str = "") -> None:
    """Move `written`, a file or a folder, and what else lies beside it to `target`, `suffix` behind each name.

    Data that the file refers to comes first. So that a file never meets the data of another, one that is replaced goes
    before them.
    """
    files = sorted(written.parent.iterdir(), key=lambda file: file == written)
    for file in written.parent.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    place = target.with_name(f"{target.name}{suffix}")
    if place.is_dir():
        place.rename(written.parent / "before")  # a folder takes the place of none that holds something
    elif len(files) > 1:
        place.unlink(missing_ok=True)
    for file in files[:-1]:
        os.replace(file, target.parent / f"{file.name}{suffix}")
    os.replace(written, place)
