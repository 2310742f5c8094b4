"""Build `leanformer/data/garments.npz` from the Debian package `dataset-fashion-mnist`.

    apt-get install dataset-fashion-mnist
    python tools/make_garments.py [OUTPUT]

The choice: the first 600 images of each class of Fashion-MNIST's training file and the first 100 of each class of its
test file, both kept in the order of the file. The same input gives the same arrays; the zip around them may differ.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

SOURCE = Path("/usr/share/datasets/fashion-mnist")
OUTPUT = Path(__file__).resolve().parents[1] / "leanformer" / "data" / "garments.npz"
SPLITS = {"train": ("train", 600), "val": ("t10k", 100)}


def read(name: str, header: int) -> np.ndarray:
    """The bytes of an IDX file after its header of `header` bytes."""
    with gzip.open(SOURCE / name) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def choose(prefix: str, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `per_class` images of each class with their labels, in the order of the file."""
    labels = read(f"{prefix}-labels-idx1-ubyte.gz", 8)
    images = read(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(10)]))
    return images[chosen], labels[chosen]


def main(output: Path) -> None:
    """Write the subset to `output`."""
    arrays = {}
    for split, (prefix, per_class) in SPLITS.items():
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = choose(prefix, per_class)
    np.savez_compressed(output, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)
