"""What a folder of images and an archive of them have in common: folders in folders, with images in the last."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from leanformer.checkpoints.runs import is_run
from leanformer.data.preprocess import printable
from leanformer.errors import DataError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def is_image(name: str) -> bool:
    """Whether a file of this name holds an image; hidden ones do not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


class Tree(Protocol):
    """Places are paths with `/` within the tree; "" is its root. What is hidden is left out."""

    def title(self, at: str) -> str:
        """What messages call the place."""
        ...

    def folders(self, at: str) -> tuple[str, ...]:
        """The names of the folders at a place, sorted."""
        ...

    def images(self, at: str) -> list[str]:
        """The images below a place, sorted, as paths within the tree."""
        ...

    def num_loose(self, at: str) -> int:
        """How many images lie at a place itself."""
        ...


def join(at: str, name: str) -> str:
    """The place `name` at the place `at`."""
    return f"{at}/{name}" if at else name


class FileTree:
    """A folder of the file system. Runs of leanformer that lie in it are no part of it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def title(self, at: str) -> str:
        """The path."""
        return str(self.root / at)

    def folders(self, at: str) -> tuple[str, ...]:
        """The folders at a place, sorted by name."""
        path = self.root / at
        try:
            with os.scandir(path) as entries:
                names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
        except OSError as error:
            _refuse(error)
        return tuple(name for name in names if not _holds_runs(path / name))

    def images(self, at: str) -> list[str]:
        """Every image below a place, sorted by path.

        Raises:
            DataError: if a folder there cannot be listed.
        """
        top = os.path.join(self.root, at)
        found = []
        for parent, folders, files in os.walk(top, onerror=_refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = os.path.relpath(parent, top).replace(os.sep, "/")
            prefix = "" if inside == "." else f"{inside}/"
            found += [prefix + name for name in files if is_image(name)]
        return [join(at, name) for name in sorted(found)]

    def num_loose(self, at: str) -> int:
        """How many images lie at a place itself."""
        return sum(map(is_image, os.listdir(self.root / at)))


def _holds_runs(path: Path) -> bool:
    """Whether a folder is a run, or holds runs alone; the first image that lies in it ends the search."""
    folders = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if is_image(entry.name):
                    return False
                if not entry.name.startswith(".") and entry.is_dir():
                    folders.append(entry.path)
    except OSError:
        return False  # who reads it says so
    return is_run(path) or (bool(folders) and all(map(is_run, folders)))


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{printable(str(error.filename))} cannot be listed: {error.strerror}") from error


class NameTree:
    """The members of an archive, by their paths. A folder that holds all others is passed over."""

    def __init__(self, root: str, names: Sequence[str]) -> None:
        self.root = root
        self.numbers: dict[str, int] = {}
        self._images: dict[str, list[str]] = {}
        inner = ("/".join(filter(None, name.split("/"))) for name in names)  # `/a//b.png` is `a/b.png`
        shown = [(name, number) for number, name in enumerate(inner) if _is_shown(name)]
        top = _wrapping([name for name, _ in shown])
        for name, number in shown:
            inside = name[len(top) :]
            if inside not in self.numbers:
                self._images.setdefault(inside.rpartition("/")[0], []).append(inside)
            self.numbers[inside] = number  # the last of a path counts, as where an archive is unpacked
        self._folders: dict[str, set[str]] = {}
        for folder in self._images:
            parts = folder.split("/") if folder else []
            for depth, part in enumerate(parts):
                self._folders.setdefault("/".join(parts[:depth]), set()).add(part)

    def title(self, at: str) -> str:
        """The archive and the path in it."""
        return join(self.root, at) if at else self.root

    def folders(self, at: str) -> tuple[str, ...]:
        """The folders at a place, sorted by name."""
        return tuple(sorted(self._folders.get(at, ())))

    def images(self, at: str) -> list[str]:
        """Every image below a place, sorted by path."""
        found = list(self._images.get(at, ()))
        for name in self.folders(at):
            found += self.images(join(at, name))
        return sorted(found)

    def num_loose(self, at: str) -> int:
        """How many images lie at a place itself."""
        return len(self._images.get(at, ()))


def _is_shown(name: str) -> bool:
    parts = name.split("/")
    return is_image(parts[-1]) and not any(part.startswith((".", "__MACOSX")) for part in parts)


def _wrapping(names: Sequence[str]) -> str:
    """`photos/` if everything lies in folders of the one folder `photos`; else nothing."""
    tops = {name.partition("/")[0] for name in names}
    if len(tops) != 1 or tops <= {"train", "val"}:
        return ""
    return f"{tops.pop()}/" if all(name.count("/") >= 2 for name in names) else ""
