"""A model is measured on data that names some of its classes, or numbers them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from leanformer.data import ArrayImages, EvalBatches
from leanformer.data.joined import JoinedImages
from leanformer.errors import DataError
from leanformer.models import Preprocess
from leanformer.tasks import Classification
from leanformer.tasks.matching import AmongClasses, InWholeBatches, RealLabels, find_columns


def images_of(*classes, count=2, shade=0):
    pixels = np.full((count * len(classes), 4, 4), shade, np.uint8)
    return ArrayImages(pixels, np.repeat(np.arange(len(classes)), count), tuple(classes), "some")


def test_classes_are_matched_by_name_in_whatever_order():
    assert find_columns(("a", "b", "c"), 3, images_of("c", "a"), "data") == [2, 0]


def test_a_class_that_the_model_does_not_know_is_named():
    with pytest.raises(DataError, match="'d' is none of the model's"):
        find_columns(("a", "b"), 2, images_of("a", "d"), "data")


def test_a_model_with_two_classes_of_one_name_is_not_measured_by_the_wrong_one():
    with pytest.raises(DataError, match="the model gives two classes the name 'crane': output 0 and output 2"):
        find_columns(("crane", "fox", "crane"), 3, images_of("crane", "fox"), "data")


def test_wnids_and_numbers_are_those_of_imagenet():
    assert find_columns(None, 1000, images_of("n01443537", "n01440764"), "data") == [1, 0]
    assert find_columns(None, 1000, images_of("0", "10", "2"), "data") == [0, 10, 2]


def test_a_model_without_names_takes_as_many_classes_as_it_has_outputs():
    assert find_columns(None, 2, images_of("cat", "dog"), "data") == [0, 1]
    with pytest.raises(DataError, match="2 classes and the model 1000 outputs"):
        find_columns(None, 1000, images_of("cat", "dog"), "data")


def test_a_model_of_22000_classes_is_not_taken_for_one_of_imagenet():
    with pytest.raises(DataError, match="21841 outputs"):
        find_columns(None, 21841, images_of("n01443537", "n01440764"), "data")


def test_the_answer_is_one_of_the_chosen_classes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    images = torch.randn(3, 3, 2, 2)
    assert torch.equal(AmongClasses(model, [4, 1])(images), model(images)[:, [4, 1]])


def test_a_batch_that_does_not_fill_the_model_is_filled_up():
    class OfThree(nn.Module):
        def forward(self, images):
            assert len(images) == 3
            return images.flatten(1)

    images = torch.randn(2, 3, 2, 2)
    assert torch.equal(InWholeBatches(OfThree(), 3)(images), images.flatten(1))


def test_both_sides_of_a_data_set_are_one():
    joined = JoinedImages(images_of("a", "b", shade=1), images_of("a", "b", count=1, shade=9))
    assert len(joined) == 6 and joined.labels.tolist() == [0, 0, 1, 1, 0, 1]
    assert [np.asarray(joined.image(i)).max() for i in (3, 4)] == [1, 9]
    assert isinstance(joined.image(5), Image.Image) and joined.name(4) == "some[0]"
    with pytest.raises(DataError, match="of 2 and of 1 classes"):
        JoinedImages(images_of("a", "b"), images_of("a"))


class Validation(ArrayImages):
    def name(self, index):
        return f"val/ILSVRC2012_val_{index + 1:08d}.JPEG"


@pytest.mark.parametrize("classes", [("n01484850", "n01443537"), ("2", "1")], ids=["wnids", "numbers"])
def test_real_labels_count_imagenets_classes_and_not_those_of_the_data(classes, tmp_path):
    file = tmp_path / "real.json"
    file.write_text("[[2], [0, 1], [], [0]]")
    images = Validation(np.full((4, 4, 4), 50, np.uint8), np.array([0, 1, 0, 1]), classes, "some")

    class Second(nn.Module):
        def forward(self, images):
            return torch.tensor([[0.0, 1.0]]).expand(len(images), 2)

    batches = EvalBatches(images, Preprocess(image_size=(4, 4)), 4)
    metrics = Classification().evaluate(Second(), batches)
    assert RealLabels.of(images, file).share(metrics) == 1 / 3  # the answer is always ImageNet's class 1
    images.classes = ("great white shark", "goldfish")
    with pytest.raises(DataError, match="and 'great white shark' is none of them; name the folders n01440764"):
        RealLabels.of(images, file)
    images.classes = classes
    file.write_text('{"1": [0]}')
    with pytest.raises(DataError, match="real.json holds no ReaL labels"):
        RealLabels.of(images, file)
