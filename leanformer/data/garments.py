"""The embedded data set `garments`: a class-balanced subset of Fashion-MNIST (Zalando SE, MIT, see `garments.LICENSE`).

6 000 training and 1 000 test images of 28 x 28 grey pixels in 10 classes: the first 600 of each class of the published
training file, the first 100 of each class of the published test file. `tools/make_garments.py` builds the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from leanformer.data.labeled import ArrayImages

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FILE = Path(__file__).with_name("garments.npz")


def garments(split: Literal["train", "val"]) -> ArrayImages:
    """The training images, or the test images as `val`."""
    with np.load(FILE) as arrays:
        return ArrayImages(arrays[f"{split}_images"], arrays[f"{split}_labels"], CLASSES, f"garments/{split}")
