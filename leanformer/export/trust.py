"""Files that run code of whoever made them are opened where they were made, or where somebody says that they may."""

from __future__ import annotations

import os
from pathlib import Path

from leanformer.checkpoints.fetch import cache_folder
from leanformer.checkpoints.files import sha256
from leanformer.errors import ExportError

VARIABLE = "LEANFORMER_TRUST"
FOLDER = "exported"
"""Of the cache; it has an empty file for each file that was exported here, named by its hash."""


def remember(path: Path) -> None:
    """Note that a file was made here."""
    place = cache_folder() / FOLDER / sha256(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    except OSError as error:
        raise ExportError(
            f"{place} could not be written ({error.strerror}); set LEANFORMER_CACHE to a folder"
        ) from error


def check_trusted(path: Path) -> None:
    """Refuse a file that was not made here, unless the variable LEANFORMER_TRUST is 1.

    Raises:
        ExportError: saying how to open it all the same.
    """
    if os.environ.get(VARIABLE) == "1" or (cache_folder() / FOLDER / sha256(path)).exists():
        return
    raise ExportError(
        f"{path} was not exported here, and opening it runs code of whoever made it; if you trust them, set "
        f"{VARIABLE}=1, else have them export it to ONNX"
    )
