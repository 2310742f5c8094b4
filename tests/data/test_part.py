from __future__ import annotations

import numpy as np
import pytest

from leanformer.data import ArrayImages, DataOptions, EvalBatches, open_data
from leanformer.data.labeled import LabeledImages
from leanformer.data.part import PartOfImages, some_of
from leanformer.models import Preprocess


@pytest.fixture
def images() -> ArrayImages:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    pixels = np.arange(100, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(5, 2)
    return ArrayImages(pixels, labels, ("a", "b", "c"), "squares")


def _values(images: LabeledImages) -> list[int]:
    return [images.image(i).getpixel((0, 0))[0] for i in range(len(images))]  # type: ignore[index]


def test_some_images_keep_the_shares_of_the_classes(images):
    some = some_of(images, 20)
    assert np.bincount(some.labels).tolist() == [12, 6, 2]
    assert [images.labels[value] for value in _values(some)] == some.labels.tolist()
    assert _values(some) == _values(some_of(images, 20)) != sorted(_values(some))


def test_more_images_than_there_are_give_all(images):
    assert some_of(images, 100) is images


def test_a_part_of_images_on_the_disk_knows_their_names_and_labels(tmp_path):
    from PIL import Image

    for name, shade in (("cat", 10), ("dog", 200)):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (6, 6), (shade + number,) * 3).save(tmp_path / name / f"{number}.png")
    whole = open_data(tmp_path, "train", DataOptions(val_share=0))
    part = some_of(whole, 4)
    assert isinstance(part, PartOfImages) and part.classes == ("cat", "dog")
    assert sorted(part.labels.tolist()) == [0, 0, 1, 1]
    for index in range(len(part)):
        assert part.classes[part.labels[index]] in part.name(index)
    batch = next(iter(EvalBatches(part, Preprocess(image_size=(6, 6)), batch_size=4)))
    assert batch.labels.tolist() == part.labels.tolist()
