import gzip
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from leanformer.data import DataOptions, ImageFolder, TrainBatches, open_data
from leanformer.data.idx import read_idx
from leanformer.data.labeled import ArrayImages
from leanformer.errors import DataError
from leanformer.models import Preprocess

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.integers(0, 256, (7, 5, 3), dtype=np.uint8)
TRAIN_LABELS = np.array([2, 0, 1, 1, 0, 2, 1], np.uint8)
VAL = RANDOM.integers(0, 256, (4, 5, 3), dtype=np.uint8)
VAL_LABELS = np.array([1, 1, 0, 2], np.uint8)
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    """The bytes of an idx file: a magic number, the sizes in big-endian order, the values."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def arrays(source: Path, split: Literal["train", "val"], val_share: float = 0.2) -> ArrayImages:
    data = open_data(source, split, DataOptions(val_share=val_share))
    assert isinstance(data, ArrayImages)
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of both sides, half of it packed."""
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(TRAIN)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(TRAIN_LABELS))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(VAL))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(VAL_LABELS)))
    return tmp_path


@pytest.mark.parametrize(
    ("split", "pixels", "labels"), [("train", TRAIN, TRAIN_LABELS), ("val", VAL, VAL_LABELS)], ids=["train", "val"]
)
def test_a_folder_of_idx_files_is_one_array_with_its_labels(folder, split, pixels, labels):
    data = arrays(folder, split)
    np.testing.assert_array_equal(data.pixels, pixels)
    assert data.labels.tolist() == labels.tolist()
    assert data.classes == ("0", "1", "2")
    assert (data.image(1).mode, data.image(1).size) == ("RGB", (3, 5))


def test_batches_are_made_of_idx_files(folder):
    batches = TrainBatches(open_data(folder, "train"), Preprocess(image_size=(5, 3), crop=1.0), None, 7, seed=0)
    (batch,) = batches.batches(0)
    assert batch.images.shape == (7, 3, 5, 3)
    assert batch.labels.tolist() == TRAIN_LABELS[batch.indices.numpy()].tolist()


def test_a_set_without_a_side_for_validation_is_divided(folder):
    for file in folder.glob("t10k*"):
        file.unlink()
    train, val = arrays(folder, "train", 0.4), arrays(folder, "val", 0.4)
    both = sorted(image.tobytes() for image in (*train.pixels, *val.pixels))
    assert both == sorted(image.tobytes() for image in TRAIN)
    assert 1 <= len(val) < len(train)
    assert len(open_data(folder, "train", DataOptions(val_share=0.0))) == len(TRAIN)
    with pytest.raises(DataError, match="leaves none for val; give a share"):
        open_data(folder, "val", DataOptions(val_share=0.0))


def test_emnist_is_turned_upright_and_named_by_its_mapping(folder):
    for file in list(folder.iterdir()):
        file.rename(folder / f"emnist-letters-{file.name.replace('t10k', 'test')}")
    (folder / "emnist-letters-mapping.txt").write_text("0 48\n2 65 97\n1 66\n\n")
    data = arrays(folder, "val")
    assert data.classes == ("0", "B", "A/a")
    np.testing.assert_array_equal(data.pixels, VAL.swapaxes(1, 2))


def test_labels_that_count_from_one_become_classes_without_a_gap(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(TRAIN_LABELS + 1))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(VAL_LABELS + 1))
    data = open_data(folder, "val")
    assert data.classes == ("1", "2", "3")
    assert data.labels.tolist() == VAL_LABELS.tolist()


def test_of_several_sets_in_a_folder_a_file_chooses_one(folder):
    for file in list(folder.iterdir()):
        (folder / f"other-{file.name}").write_bytes(file.read_bytes())
    (folder / "other-t10k-labels-idx1-ubyte.gz").write_bytes(idx(VAL_LABELS[::-1]))
    with pytest.raises(
        DataError, match=r"2 sets of idx files; give a file of one of them: other-t.*-ubyte.*, t.*-ubyte"
    ):
        open_data(folder, "train")
    assert open_data(folder / "t10k-images-idx3-ubyte", "val").labels.tolist() == VAL_LABELS.tolist()
    other = open_data(folder / "other-train-images-idx3-ubyte.gz", "val")
    assert other.labels.tolist() == VAL_LABELS[::-1].tolist()


def test_a_folder_of_classes_keeps_its_meaning_beside_idx_files(folder):
    for name in ("a", "b"):
        for side in ("train", "val"):
            (folder / side / name).mkdir(parents=True)
            open_data("garments", "val").image(0).save(folder / side / name / "0.png")
    assert isinstance(open_data(folder, "train"), ImageFolder)


DAMAGED = {
    "cut off": (idx(TRAIN)[:-4], r"train-images.*is cut off: 101 bytes of the 105"),
    "cut off in its header": (idx(TRAIN)[:9], "cut off within its header"),
    "empty": (b"", "begins with nothing"),
    "too long": (idx(TRAIN) + b"0", "goes on after the 105 bytes"),
    "a cut archive": (gzip.compress(idx(TRAIN))[:-12], "cannot be read"),
    "a broken archive": (gzip.compress(idx(TRAIN))[:12] + b"\xff" * 40, "cannot be read"),
    "a page of HTML": (b"<html>not found</html>", r"no idx file of unsigned bytes: it begins with 3c 68 74 6d"),
    "of wide numbers": (b"\0\0\x0b" + idx(TRAIN)[3:], "no idx file of unsigned bytes"),
    "of labels": (idx(TRAIN_LABELS), "an array of 1 axes; expected 3"),
    "of no image": (idx(TRAIN[:0]), r"holds nothing: its shape is \(0, 5, 3\)"),
    "of more images than labels": (idx(np.concatenate([TRAIN, VAL])), "holds 11 images, .*labels-idx1-ubyte 7 labels"),
    "of a size beyond memory": (idx(TRAIN)[:4] + b"\xff" * 12 + TRAIN.tobytes(), "cut off: 105 bytes of the"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_file_of_images_that_does_not_fit_is_refused_by_name(folder, case):
    content, message = DAMAGED[case]
    (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(folder, "train")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("train-labels-idx1-ubyte", "train-images-idx3-ubyte.gz, but not the labels"),
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte, but not the images"),
        ("t10k-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte, but not the labels"),
        ("train-*", r"holds no train-images-idx3-ubyte\(.gz\)"),
    ],
)
def test_a_missing_file_is_named(folder, missing, message):
    for file in folder.glob(missing):
        file.unlink()
    with pytest.raises(DataError, match=message):
        open_data(folder, "val" if missing.startswith("t10k") else "train")


def test_a_label_that_training_lacks_and_a_mapping_of_words_are_refused(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(VAL_LABELS + 2))
    with pytest.raises(DataError, match="t10k-labels.* has the label 3, unknown among the 3 classes"):
        open_data(folder, "val")
    (folder / "mapping.txt").write_text("0 zero\n")
    with pytest.raises(DataError, match=r"mapping.txt does not hold lines of numbers like '1 65 97'.*zero"):
        open_data(folder, "train")
    (folder / "mapping.txt").write_text("0 65\n1 65\n2 66\n")
    with pytest.raises(DataError, match=r"mapping.txt gives two classes the name 'A': label 0 and label 1"):
        open_data(folder, "train")


def test_a_file_is_read_by_what_it_holds_not_by_its_ending(tmp_path):
    plain, packed = tmp_path / "plain.gz", tmp_path / "packed"
    plain.write_bytes(idx(TRAIN))
    packed.write_bytes(gzip.compress(idx(TRAIN)))
    np.testing.assert_array_equal(read_idx(plain, 3), read_idx(packed, 3))


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="needs the Debian package dataset-fashion-mnist")
def test_fashion_mnist_has_the_classes_and_images_of_garments():
    data, garments = arrays(FASHION_MNIST, "val"), open_data("garments", "val")
    assert isinstance(garments, ArrayImages)
    assert (len(data), data.classes) == (10_000, garments.classes)
    first = np.sort(np.concatenate([np.flatnonzero(data.labels == label)[:100] for label in range(10)]))
    np.testing.assert_array_equal(data.pixels[first], garments.pixels)
    np.testing.assert_array_equal(data.labels[first], garments.labels)
