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


def move_in(written: Path, target: Path, suffix: str = "") -> None:
    """Move the file `written`, and what else lies in its folder, to `target` and beside it, `suffix` behind each name.

    Data that the file refers to comes first. So that a file never meets the data of another, one that is replaced goes
    before them.
    """
    files = sorted(written.parent.iterdir(), key=lambda file: file == written)
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    place = target.with_name(f"{target.name}{suffix}")
    if len(files) > 1:
        place.unlink(missing_ok=True)
    for file in files[:-1]:
        os.replace(file, target.parent / f"{file.name}{suffix}")
    os.replace(written, place)
