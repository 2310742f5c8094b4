import pytest

from leanformer.data import Augment, TrainBatches, open_data
from leanformer.data.synthetic import write_folder
from leanformer.data.timing import images_per_second, measure_parts
from leanformer.errors import DataError
from leanformer.models import Preprocess

PREPROCESS = Preprocess(image_size=(24, 20))


def test_the_parts_of_the_pipeline_are_timed(tmp_path):
    data = open_data(write_folder(tmp_path, size=60), "train")
    plain = measure_parts(data, PREPROCESS, None, num_images=8)
    assert plain.decode > 0 and plain.resize > 0 and plain.augment == 0
    varied = measure_parts(data, PREPROCESS, Augment(auto_augment="rand-m9-mstd0.5-inc1"), num_images=8)
    assert "decode" in str(varied) and "images/s in one process" in str(varied)
    total = varied.decode + varied.resize + varied.augment + varied.collate
    assert varied.images_per_second == 1 / total


def test_images_that_cannot_be_read_are_not_timed(tmp_path):
    folder = write_folder(tmp_path, per_class=4, num_unreadable=2)
    files = sorted(file for file in (folder / "train").rglob("*.*"))
    data = open_data(folder, "train")
    assert measure_parts(data, PREPROCESS, None, num_images=20).decode > 0
    for file in files[1:]:
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="two are needed"):
        measure_parts(data, PREPROCESS, None, num_images=len(data) - 1)


def test_a_loader_is_timed(tmp_path):
    data = open_data(write_folder(tmp_path), "train")
    assert images_per_second(TrainBatches(data, PREPROCESS, None, 4, 0), seconds=0.1) > 1
