from pathlib import Path

import golden
import numpy as np
import pytest
import torch

from leanformer.config import from_dict, to_dict
from leanformer.data import Augment, EvalBatches, Sampling, TrainBatches, class_weights, open_data
from leanformer.data.sampling import epoch_order, repeated, subset
from leanformer.data.synthetic import shapes, write_folder
from leanformer.errors import ConfigError
from leanformer.models import Preprocess

GOLDEN = Path(__file__).parents[1] / "golden"
UNEVEN = np.repeat(np.arange(4), [100, 10, 3, 31])
PREPROCESS = Preprocess(image_size=(24, 20))


def permutation(count, epoch):
    return torch.randperm(count, generator=torch.Generator().manual_seed(epoch)).numpy()


@pytest.mark.parametrize(("count", "world", "epoch"), [(1024, 2, 3), (1000, 4, 0)])
def test_repeated_augmentation_shows_what_lambda_vit_shows(count, world, epoch):
    _, expected = golden.load(GOLDEN / "attention_removal" / "module_ra_sampler.npz")
    order = permutation(count, epoch)
    for rank in range(world):
        ours = repeated(order, 3, rank, world)
        np.testing.assert_array_equal(ours, expected[f"extra_n{count}_w{world}_e{epoch}_rank{rank}"])


def test_repeated_augmentation_shows_what_swiftformer_shows():
    _, expected = golden.load(GOLDEN / "swiftformer" / "training_pieces.npz")
    order = permutation(1000, 3)
    ours = [repeated(order, 3, rank, 4) for rank in range(4)]
    np.testing.assert_array_equal(ours, expected["extra_ra_indices"])


def test_images_shown_again_are_varied_anew():
    data = shapes(40, size=20)
    loader = TrainBatches(data, PREPROCESS, Augment(), 6, 0, sampling=Sampling(repeat=3))
    for batch in loader.batches(0):
        assert batch.indices.tolist() == np.repeat(batch.indices[::3], 3).tolist()
        assert not torch.equal(batch.images[0], batch.images[1])
    assert loader.steps_per_epoch == 6


def test_folders_shown_again_are_varied_anew_with_any_number_of_workers(tmp_path):
    data = open_data(write_folder(tmp_path, per_class=4), "train")
    arguments = data, PREPROCESS, Augment(), 6, 0
    alone, helped = (TrainBatches(*arguments, workers, Sampling(repeat=2)) for workers in (0, 2))
    for ours, theirs in zip(helped.batches(1, 1), alone.batches(1, 1), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert not torch.equal(ours.images[0], ours.images[1])


def test_balanced_sampling_shows_every_class_equally_often():
    order = epoch_order(UNEVEN, Sampling(balanced=True), 0, 0)
    assert len(order) == 144
    assert np.bincount(UNEVEN[order.indices]).tolist() == [36] * 4
    assert len(set(order.indices[UNEVEN[order.indices] == 0])) == 36
    assert set(order.indices[UNEVEN[order.indices] == 2]) == {110, 111, 112}
    assert sorted(order.copies[UNEVEN[order.indices] == 2]) == sorted(list(range(12)) * 3)
    pairs = set(zip(order.indices.tolist(), order.copies.tolist(), strict=True))
    assert len(pairs) == 144
    other = epoch_order(UNEVEN, Sampling(balanced=True), 0, 1)
    assert other.indices.tolist() != order.indices.tolist()


def test_a_fraction_takes_the_same_share_of_each_class():
    tenth, half = subset(UNEVEN, 0.1), subset(UNEVEN, 0.5)
    assert np.bincount(UNEVEN[tenth]).tolist() == [10, 1, 1, 4]
    assert np.bincount(UNEVEN[half]).tolist() == [50, 5, 2, 16]
    assert set(tenth) < set(half) < set(subset(UNEVEN, 1))
    for epoch in (0, 1):
        assert set(epoch_order(UNEVEN, Sampling(fraction=0.1), 5, epoch).indices) == set(tenth)
    loader = TrainBatches(shapes(40, size=20), PREPROCESS, None, 5, 0, sampling=Sampling(fraction=0.5))
    assert loader.steps_per_epoch == 4


def test_without_wishes_an_epoch_is_a_permutation():
    order = epoch_order(UNEVEN, Sampling(), 0, 0)
    assert sorted(order.indices) == list(range(144))
    assert not order.copies.any()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(repeat=3), Sampling(balanced=True)], ids=str)
@pytest.mark.parametrize("form", ["array", "folder"])
def test_ranks_see_together_what_one_sees(tmp_path, world, sampling, form):
    data = (
        shapes(40, size=20) if form == "array" else open_data(write_folder(tmp_path, per_class=9, num_val=0), "train")
    )
    arguments = data, PREPROCESS, Augment(erase=0.5), 12, 1, 0, sampling
    whole = TrainBatches(*arguments)
    parts = [TrainBatches(*arguments, (rank, world)) for rank in range(world)]
    assert {part.steps_per_epoch for part in parts} == {whole.steps_per_epoch}
    for batch, *shares in zip(whole.batches(2), *(part.batches(2) for part in parts), strict=True):
        for rank, share in enumerate(shares):
            assert torch.equal(share.indices, batch.indices[rank::world])
            assert torch.equal(share.images, batch.images[rank::world])


@pytest.mark.parametrize("count", [1, 2, 13])
def test_ranks_evaluate_every_image_once(count):
    data = shapes(count, size=20)
    batches = [EvalBatches(data, PREPROCESS, 2, share=(rank, 3)) for rank in range(3)]
    seen = [index for part in batches for batch in part for index in batch.indices.tolist()]
    assert sorted(seen) == list(range(count))


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="a batch of 5 images cannot be shared by 2 ranks"):
        TrainBatches(shapes(12, size=20), PREPROCESS, None, 5, 0, share=(0, 2))


def test_weights_of_classes_even_out_how_often_they_occur():
    weights = class_weights(UNEVEN, 5)
    totals = weights[:4] * np.bincount(UNEVEN)
    np.testing.assert_allclose(totals, 36, rtol=1e-6)
    assert weights[4] == 0 and weights.dtype == np.float32
    np.testing.assert_allclose(class_weights(UNEVEN, 4, power=0), 1)
    np.testing.assert_allclose(class_weights(UNEVEN, 4, power=0.5)[UNEVEN].mean(), 1, rtol=1e-6)


@pytest.mark.parametrize(("options", "message"), [
    ({"repeat": 0}, "repeat must be at least 1, got 0"),
    ({"fraction": 0.0}, "fraction must be above 0 and at most 1, got 0.0"),
    ({"fraction": 1.5}, "fraction must be above 0"),
])  # fmt: skip
def test_impossible_sampling_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**options)
    wishes = Sampling(repeat=3, fraction=0.5)
    assert from_dict(to_dict(wishes), Sampling) == wishes
