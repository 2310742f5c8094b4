import numpy as np
import pytest
from PIL import Image

from leanformer.data import open_data
from leanformer.data.synthetic import CLASSES, shapes, write_folder
from leanformer.errors import ConfigError, DataError


def test_shapes_are_the_same_every_time_and_balanced():
    first, again, other = shapes(30, num_classes=5), shapes(30, num_classes=5), shapes(30, num_classes=5, seed=1)
    assert (first.pixels == again.pixels).all()
    assert (first.pixels != other.pixels).any()
    assert np.bincount(first.labels).tolist() == [6] * 5
    assert first.pixels.shape == (30, 32, 32, 3)
    assert first.classes == CLASSES[:5]


def test_there_are_twelve_different_classes_of_shapes():
    assert len(set(CLASSES)) == 12
    with pytest.raises(ConfigError, match="num_classes must be 1 to 12, got 13"):
        shapes(num_classes=13)


def test_shapes_show_their_color():
    data = shapes(60, num_classes=12)
    for pixels, label in zip(data.pixels, data.labels, strict=True):
        channels = np.sort(pixels.reshape(-1, 3), 0)[-20:].mean(0)  # the brightest of each channel
        strongest = ("red", "green", "blue")[channels.argmax()]
        assert data.classes[label].startswith(strongest)


def test_a_written_folder_mixes_formats_modes_and_sizes(tmp_path):
    write_folder(tmp_path, num_classes=1, per_class=8, num_val=1)
    images = [Image.open(path) for path in sorted((tmp_path / "train" / CLASSES[0]).iterdir())]
    assert {image.mode for image in images} == {"RGB", "L", "RGBA", "P", "I;16", "CMYK"}
    assert {image.format for image in images} == {"JPEG", "PNG", "GIF", "WEBP"}
    assert [image.getexif().get(0x0112) for image in images].count(6) == 1
    assert len({image.size for image in images}) > 4


def test_a_written_folder_reads_as_the_classes_it_was_made_of(tmp_path):
    data = open_data(write_folder(tmp_path, num_classes=3, per_class=8, num_val=0), "train")
    assert set(data.classes) == set(CLASSES[:3])
    colored = 0
    for index, label in enumerate(data.labels):
        channels = np.sort(np.asarray(data.image(index)).reshape(-1, 3), 0)[-20:].astype(float).mean(0)
        if np.ptp(channels) > 20:
            colored += 1
            assert data.classes[label].startswith(("red", "green", "blue")[channels.argmax()])
    assert colored >= len(data) // 2


def test_the_unreadable_files_of_a_written_folder_cannot_be_read(tmp_path):
    data = open_data(write_folder(tmp_path, num_classes=1, per_class=10, num_unreadable=8), "train")
    for index in range(8):
        with pytest.raises(DataError, match="cannot be read as an image"):
            data.image(index)
    assert [data.image(index).mode for index in (8, 9)] == ["RGB", "RGB"]
