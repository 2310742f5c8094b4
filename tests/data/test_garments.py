import hashlib
import runpy
from pathlib import Path

import numpy as np
import pytest

from leanformer.data import open_data

TOOL = Path(__file__).parents[2] / "tools" / "make_garments.py"
DEBIAN = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
PIXELS = {
    "train": "d04919469196668f12166573f4fcda126a24fd2c8f6ff98de0861dadc433b74f",
    "val": "22489d4842e74e85dc8dfa1e618d5c8b760cc913f0c941bf9aebbb0d0b933b9e",
}


@pytest.mark.parametrize(("split", "per_class"), [("train", 600), ("val", 100)])
def test_every_class_of_garments_has_the_same_number_of_images(split, per_class):
    data = open_data("garments", split)
    assert len(data) == 10 * per_class
    assert np.bincount(data.labels).tolist() == [per_class] * 10
    assert data.pixels.shape == (10 * per_class, 28, 28)


@pytest.mark.parametrize("split", PIXELS)
def test_garments_are_the_pixels_and_labels_that_were_chosen(split):
    data = open_data("garments", split)
    content = data.pixels.tobytes() + data.labels.astype(np.uint8).tobytes()
    assert hashlib.sha256(content).hexdigest() == PIXELS[split]


def test_no_garment_occurs_twice_or_in_both_splits():
    images = [image.tobytes() for split in PIXELS for image in open_data("garments", split).pixels]
    assert len(set(images)) == len(images) == 7000


def test_garments_are_served_as_rgb_images_with_class_names():
    data = open_data("garments", "val")
    image = data.image(3)
    assert (image.mode, image.size, data.name(3)) == ("RGB", (28, 28), "garments/val[3]")
    assert (np.asarray(image)[..., 1] == data.pixels[3]).all()
    assert data.classes[data.labels[0]] == "ankle boot"


def test_the_licence_of_garments_lies_beside_them():
    text = TOOL.parents[1].joinpath("leanformer", "data", "garments.LICENSE").read_text()
    assert "2017, Zalando SE" in text
    assert "Permission is hereby granted" in text


@pytest.mark.skipif(not DEBIAN.exists(), reason="needs the Debian package dataset-fashion-mnist")
def test_the_tool_rebuilds_the_same_images_and_labels(tmp_path):
    tool = runpy.run_path(str(TOOL))
    tool["main"](tmp_path / "garments.npz")
    with np.load(tmp_path / "garments.npz") as rebuilt, np.load(tool["OUTPUT"]) as shipped:
        assert rebuilt.files == shipped.files
        for name in shipped.files:
            np.testing.assert_array_equal(rebuilt[name], shipped[name])
