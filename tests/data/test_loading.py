from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from leanformer.data import Augment, EvalBatches, TrainBatches, open_data, prepare
from leanformer.data.synthetic import shapes, write_folder
from leanformer.errors import ConfigError, DataError
from leanformer.models import Preprocess

PREPROCESS = Preprocess(image_size=(24, 20))


class Numbers:
    """Images whose red is their number; some cannot be read."""

    classes = ("even", "odd")

    def __init__(self, count, broken=()):
        self.labels = np.arange(count) % 2
        self.broken = set(broken)

    def __len__(self):
        return len(self.labels)

    def image(self, index):
        if index in self.broken:
            raise DataError(f"{index} is broken")
        return Image.new("RGB", (5, 4), (index, 0, 0))

    def name(self, index):
        return f"number {index}"


PLAIN = Preprocess(image_size=(4, 5), crop=1.0, fit="squash", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def train(data, preprocess=PLAIN, augment=None, batch_size=4, seed=0, **options):
    return TrainBatches(data, preprocess, augment, batch_size, seed, **options)


def indices(batches):
    return [batch.indices.tolist() for batch in batches]


def assert_same(ours, theirs):
    assert ours.skipped == theirs.skipped
    for name in ("images", "labels", "indices"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_an_epoch_shows_every_image_at_most_once_with_its_label():
    loader = train(Numbers(23), batch_size=5)
    batches = list(loader.batches(0))
    assert len(batches) == loader.steps_per_epoch == 4
    seen = torch.cat([batch.indices for batch in batches])
    assert len(seen.unique()) == 20
    for batch in batches:
        assert torch.equal(batch.labels, batch.indices % 2)
        torch.testing.assert_close(batch.images[:, 0, 2, 3], batch.indices / 255)
        assert batch.images.dtype == torch.float32 and batch.labels.dtype == torch.int64


def test_the_order_depends_on_seed_and_epoch_alone():
    first = indices(train(Numbers(23)).batches(1))
    assert first == indices(train(Numbers(23)).batches(1))
    assert first != indices(train(Numbers(23)).batches(2))
    assert first != indices(train(Numbers(23), seed=1).batches(1))


def test_a_small_set_makes_one_batch_of_its_own_size():
    loader = train(Numbers(3), batch_size=64)
    assert loader.steps_per_epoch == 1
    assert [len(batch) for batch in indices(loader.batches(0))] == [3]


@pytest.mark.parametrize("data", [open_data("garments", "val"), shapes(50, size=20)], ids=["grey", "color"])
@pytest.mark.parametrize("augment", [None, Augment(erase=0.3)], ids=["plain", "varied"])
def test_an_epoch_of_an_array_can_be_entered_at_any_step(data, augment):
    whole = list(train(data, PREPROCESS, augment, batch_size=7).batches(3))
    rest = train(data, PREPROCESS, augment, batch_size=7).batches(3, start=4)
    for ours, theirs in zip(rest, whole[4:], strict=True):
        assert_same(ours, theirs)


def test_an_epoch_of_a_folder_can_be_entered_at_any_step(tmp_path):
    data = open_data(write_folder(tmp_path, per_class=8, num_unreadable=2), "train")
    whole = list(train(data, PREPROCESS, Augment()).batches(1))
    rest = list(train(data, PREPROCESS, Augment()).batches(1, start=2))
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.indices, theirs.indices)


def test_workers_change_nothing(tmp_path):
    data = open_data(write_folder(tmp_path, per_class=8, num_unreadable=2), "train")
    augment = Augment(erase=0.5)
    alone = train(data, PREPROCESS, augment)
    helped = train(data, PREPROCESS, augment, workers=2)
    state = torch.get_rng_state()
    for epoch, start in ((0, 0), (1, 2)):
        for ours, theirs in zip(helped.batches(epoch, start), alone.batches(epoch, start), strict=True):
            assert_same(ours, theirs)
    for _ in helped.batches(2):
        break  # the batches that the workers still hold must not leak into the next epoch
    assert_same(next(iter(helped.batches(3))), next(iter(alone.batches(3))))
    assert helped.unreadable == alone.unreadable
    assert len(helped.unreadable) == 2
    assert torch.equal(state, torch.get_rng_state())


def test_evaluation_with_workers_is_the_same(tmp_path):
    data = open_data(write_folder(tmp_path, per_class=7, num_unreadable=1), "train")
    for ours, theirs in zip(EvalBatches(data, PREPROCESS, 4, workers=2), EvalBatches(data, PREPROCESS, 4), strict=True):
        assert_same(ours, theirs)


def test_an_array_needs_no_workers():
    data = shapes(10)
    ours, theirs = (train(data, PREPROCESS, workers=workers).batches(0) for workers in (2, 0))
    assert_same(next(ours), next(theirs))


def test_an_unreadable_image_is_replaced_by_the_next_of_the_epoch_and_named_once():
    o = list(chain.from_iterable(indices(train(Numbers(12)).batches(0))))
    broken = {o[1], o[4]}
    loader = train(Numbers(12, broken))
    batches = list(loader.batches(0))
    assert indices(batches) == [[o[0], o[2], o[3], o[5]], [o[5], o[6], o[7], o[8]], o[8:12]]
    assert batches[0].skipped == tuple((f"number {n}", f"{n} is broken") for n in (o[1], o[4]))
    assert batches[1].skipped == batches[2].skipped == ()
    assert all(batch.skipped == () for batch in loader.batches(1))
    assert loader.unreadable == {f"number {n}": f"{n} is broken" for n in broken}


def test_one_readable_image_is_enough_to_train():
    batches = list(train(Numbers(9, set(range(9)) - {5})).batches(0))
    assert indices(batches) == [[5], [5]]


def test_evaluation_sees_every_readable_image_once_in_order():
    loader = EvalBatches(Numbers(13, {0, 4, 5, 6, 7, 10, 11, 12}), PLAIN, 2)
    batches = list(loader)
    assert indices(batches) == [[1], [2, 3], [8, 9]]
    assert [len(batch.skipped) for batch in batches] == [1, 0, 7]
    assert len(loader) == 7
    assert len(loader.unreadable) == 8
    assert indices(loader) == indices(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_without_a_readable_image_is_an_error_that_names_the_first(tmp_path, workers):
    data = open_data(write_folder(tmp_path, num_classes=1, per_class=5, num_unreadable=5), "train")
    for loader in (train(data, workers=workers).batches(0), EvalBatches(data, PLAIN, 2, workers=workers)):
        with pytest.raises(DataError, match="none of the 5 images can be read\n(.*cannot be read.*\n){3}  and 2 more"):
            list(loader)


@pytest.mark.parametrize(
    "preprocess", [PREPROCESS, Preprocess(image_size=(28, 28), crop=1.0)], ids=["resized", "as is"]
)
def test_garments_are_evaluated_like_images_one_by_one(preprocess):
    data = open_data("garments", "val")
    batch = next(iter(EvalBatches(data, preprocess, 9)))
    each = torch.stack([prepare(data.image(index), preprocess) for index in range(9)])
    torch.testing.assert_close(batch.images, each, rtol=0, atol=1e-5)
    assert batch.labels.tolist() == data.labels[:9].tolist()


def test_a_batch_of_an_array_owns_its_images():
    data = shapes(8, size=20)
    before = data.pixels.copy(), data.labels.copy()
    for batch in EvalBatches(data, PREPROCESS, 8):
        batch.images.zero_()
        batch.labels.zero_()
    assert (data.pixels == before[0]).all() and (data.labels == before[1]).all()


@pytest.mark.parametrize(("options", "message"), [
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"seed": -1}, "seed must be 0 or more, got -1"),
    ({"workers": -2}, "workers must be 0 or more, got -2"),
    ({"augment": Augment(auto_augment="rnd")}, "auto_augment 'rnd' is not a policy"),
])  # fmt: skip
def test_impossible_loaders_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        train(Numbers(3), **options)
    with pytest.raises(DataError, match="the data set holds no images"):
        train(Numbers(0))
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        EvalBatches(Numbers(3), PLAIN, 0)
