"""Images with labels that lie in a folder or in archives: a few arrays, however many images there are."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, overload

import numpy as np
from PIL import Image

from leanformer.data.labeled import LabeledImages
from leanformer.data.preprocess import open_image, printable

NUM_MEASURED = 256
"""Files whose sizes a fingerprint takes in."""


class Names(Sequence[str]):
    """Many names in two arrays, which are cheaper to hold and to hand to a worker than as many strings."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self.text = np.frombuffer(b"".join(encoded), np.uint8)

    @classmethod
    def of_arrays(cls, text: np.ndarray, ends: np.ndarray) -> Names:
        """The names whose two arrays these are."""
        names = cls(())
        names.text, names.ends = text, ends
        return names

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self.ends[index - 1] if index else 0
        return self.text[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


class Store(Protocol):
    """A place of many images, each read by its number alone."""

    def image(self, number: int) -> Image.Image:
        """The image as RGB; raises `DataError` if it cannot be read."""
        ...

    def name(self, number: int) -> str:
        """What to call the image."""
        ...


class Files:
    """Files by their paths, which are relative to `root` or absolute."""

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self.root, self.names = root, Names(names)

    def image(self, number: int) -> Image.Image:
        """The image as RGB."""
        return open_image(os.path.join(self.root, self.names[number]))

    def name(self, number: int) -> str:
        """The path as it is written."""
        return printable(self.names[number])


class StoredImages:
    """Some of the images of a store, with a label each, or with several.

    Args:
        members: the numbers of the images in the store.
        keys: what the classes are called in the store, such as ImageNet's `n01440764`; `classes` by default.
        several: offsets (N + 1,) and labels of images with any number of them; `labels` is their first, or -1.
    """

    def __init__(
        self,
        store: Store,
        members: np.ndarray,
        labels: np.ndarray,
        classes: tuple[str, ...],
        keys: tuple[str, ...] | None = None,
        several: LabelSets | None = None,
    ) -> None:
        assert len(members) == len(labels)
        self.store = store
        self.members = np.asarray(members, np.int64)
        self.labels = np.asarray(labels, np.int64)
        self.classes = classes
        self.keys = keys or classes
        self.several = several

    def __len__(self) -> int:
        return len(self.members)

    def image(self, index: int) -> Image.Image:
        """The image at `index` as RGB."""
        return self.store.image(int(self.members[index]))

    def name(self, index: int) -> str:
        """The image's path within the store."""
        return self.store.name(int(self.members[index]))


class LabelSets:
    """Any number of labels for each image, in two arrays."""

    def __init__(self, sets: Iterable[Iterable[int]], num_classes: int) -> None:
        rows = [sorted(set(labels)) for labels in sets]
        self.num_classes = num_classes
        self.ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        self.flat = np.array([label for row in rows for label in row], np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> list[int]:
        return self.flat[self.ends[index - 1] if index else 0 : self.ends[index]].tolist()

    def hot(self, indices: np.ndarray) -> np.ndarray:
        """float32 (B, num_classes): 1 where an image has the class, else 0."""
        out = np.zeros((len(indices), self.num_classes), np.float32)
        for row, index in enumerate(indices):
            out[row, self[int(index)]] = 1
        return out

    def first(self) -> np.ndarray:
        """The first label of each image, -1 for one without any; int64 (N,)."""
        counts = np.diff(self.ends, prepend=0)
        first = np.full(len(self), -1, np.int64)
        first[counts > 0] = self.flat[(self.ends - counts)[counts > 0]]
        return first


def fingerprint(data: LabeledImages) -> str | None:
    """A hash over the paths, the labels and, of some files, the sizes; None for data that is not single files. No image
    is read, and the folder itself may have another name."""
    store = getattr(data, "store", None)
    if not isinstance(data, StoredImages) or not isinstance(store, Files):
        return None
    arrays = [store.names.text, store.names.ends, data.members, data.labels]
    if data.several is not None:
        arrays += [data.several.ends, data.several.flat]
    digest = hashlib.sha256()
    for array in (*arrays, _sizes(store, data.members)):
        digest.update(f"{len(array)} ".encode())
        digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _sizes(store: Files, members: np.ndarray) -> np.ndarray:
    """The sizes of files spread over all of them, -1 for one that is not there; int64."""
    chosen = np.unique(np.linspace(0, len(members) - 1, min(len(members), NUM_MEASURED)).astype(np.int64))
    sizes = np.full(len(chosen), -1, np.int64)
    for place, member in enumerate(members[chosen]):
        with contextlib.suppress(OSError):
            sizes[place] = os.path.getsize(os.path.join(store.root, store.names[int(member)]))
    return sizes
