"""Images that several processes share out are measured as by one."""

from contextlib import suppress
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image

from leanformer.data import EvalBatches
from leanformer.data.stored import LabelSets
from leanformer.data.synthetic import shapes
from leanformer.errors import DataError
from leanformer.models import ImageClassifier
from leanformer.models.registry import find
from leanformer.tasks import Classification


class Unreliable:
    """Coloured shapes, each of one class or of several, some of which cannot be read."""

    def __init__(self, count, several=False, broken=()):
        images = shapes(count, 5, 16, seed=4)
        self.pixels, self.labels, self.classes = images.pixels, images.labels, images.classes
        self.several = LabelSets([{label, (7 * n) % 5} for n, label in enumerate(self.labels)], 5) if several else None
        self.broken = set(broken)

    def __len__(self):
        return len(self.labels)

    def image(self, index):
        if index in self.broken:
            raise DataError(f"{index} is broken")
        return Image.fromarray(self.pixels[index])

    def name(self, index):
        return f"number {index}"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    model = ImageClassifier(replace(find("deit_nano"), image_size=16, patch_size=4, num_classes=5))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def evaluated(model, images, world):
    """What the last of so many processes gets, which here run one after the other."""
    tallies = []

    def gather(tally):
        tallies.append(tally)
        return list(tallies)

    for rank in range(world - 1):
        with suppress(DataError):  # nothing of its share can be read
            Classification().evaluate(model, share_of(model, images, rank, world), gather)
    return Classification().evaluate(model, share_of(model, images, world - 1, world), gather)


def share_of(model, images, rank, world):
    return EvalBatches(images, model.preprocess, 64 // world, share=(rank, world))


@pytest.mark.parametrize("several", [False, True], ids=["one class", "several classes"])
def test_two_and_three_processes_measure_1001_images_exactly_as_one(model, several):
    images = Unreliable(1001, several, broken={0, 500, 998, 1000})
    alone = Classification().evaluate(model, EvalBatches(images, model.preprocess, 64))
    assert alone.count == 997 and alone.indices.tolist() == sorted(set(range(1001)) - images.broken)
    for world in (2, 3):
        shared = evaluated(model, images, world)
        assert sorted(shared.skipped) == sorted(alone.skipped)
        for name in {field.name for field in fields(alone)} - {"skipped"}:
            one, all_together = getattr(alone, name), getattr(shared, name)
            assert torch.equal(one, all_together) if torch.is_tensor(one) else one == all_together, (world, name)


def test_a_process_without_a_readable_image_adds_nothing(model):
    images = Unreliable(4, broken={1, 3})
    assert evaluated(model, images, 2).indices.tolist() == [0, 2]
    assert evaluated(model, Unreliable(2), 3).count == 2


def test_no_readable_image_at_all_is_said(model):
    with pytest.raises(DataError, match="no image to evaluate"):
        evaluated(model, Unreliable(4, broken=range(4)), 2)


def test_sums_do_not_depend_on_the_order_of_the_batches(model):
    images = shapes(50, 5, 16, seed=5)
    batches = list(EvalBatches(images, model.preprocess, 7))
    forward, backward = (Classification().evaluate(model, order) for order in (batches, batches[::-1]))
    assert forward.loss == backward.loss and np.array_equal(forward.predictions, backward.predictions)
