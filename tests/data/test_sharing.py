"""Ranks that share batches out: in pairs, as they are mixed, and where images cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image

from leanformer.data import TrainBatches
from leanformer.data.mixing import Mixing, mix
from leanformer.data.synthetic import shapes
from leanformer.errors import ConfigError, DataError
from leanformer.models import Preprocess

PREPROCESS = Preprocess(image_size=(24, 20))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_out_the_pairs_that_are_mixed(world):
    data = shapes(30, size=20)
    whole = TrainBatches(data, PREPROCESS, None, 12, 1, mirrored=True)
    parts = [TrainBatches(data, PREPROCESS, None, 12, 1, share=(rank, world), mirrored=True) for rank in range(world)]
    for batch, *shares in zip(whole.batches(0), *(part.batches(0) for part in parts), strict=True):
        order = batch.indices.tolist()
        for rank, share in enumerate(shares):
            pairs = list(zip(share.indices.tolist(), reversed(share.indices.tolist()), strict=True))
            assert pairs[: len(pairs) // 2] == [(order[i], order[11 - i]) for i in range(rank, 6, world)]


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_ranks_mix_their_pairs_as_one_would_where_the_batch_draws_once(mode):
    data = shapes(24, 3, size=20)
    how = {"num_classes": 3, "smoothing": 0.1, "seed": 5, "step": 7}
    mixing = Mixing(mode=mode, switch=0.5)
    batch = next(TrainBatches(data, PREPROCESS, None, 12, 1, mirrored=True).batches(0))
    images, labels = mix(batch.images, batch.labels, mixing, **how)
    same = []
    for rank in range(2):
        share = next(TrainBatches(data, PREPROCESS, None, 12, 1, share=(rank, 2), mirrored=True).batches(0))
        places = [batch.indices.tolist().index(number) for number in share.indices.tolist()]
        mine = mix(share.images, share.labels, mixing, **how, rank=rank)
        same.append(torch.equal(mine[0], images[places]) and torch.equal(mine[1], labels[places]))
        assert not torch.equal(mine[0], share.images)
    assert same == [True, True] if mode == "batch" else not same[1]


@pytest.mark.parametrize("world, batch_size, told", [(1, 9, "such as 8"), (2, 10, "a multiple of 4")])
def test_pairs_that_cannot_be_shared_out_are_refused(world, batch_size, told):
    with pytest.raises(ConfigError, match=f"cannot be mixed in pairs.*{told}"):
        TrainBatches(shapes(30, size=20), PREPROCESS, None, batch_size, 0, share=(0, world), mirrored=True)


class FewReadable:
    """Images of which the first ones alone can be read."""

    classes = ("only",)

    def __init__(self, count, readable):
        self.labels, self.readable = np.zeros(count, np.int64), readable

    def __len__(self):
        return len(self.labels)

    def image(self, index):
        if index >= self.readable:
            raise DataError(f"{index} is broken")
        return Image.new("RGB", (20, 20), (index, 0, 0))

    def name(self, index):
        return str(index)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("readable", [1, 3, 7, 8, 9, 15])
def test_unreadable_images_leave_a_batch_that_is_mixed_in_pairs(readable, world):
    data = FewReadable(16, readable)
    parts = [TrainBatches(data, PREPROCESS, None, 16, 0, share=(rank, world), mirrored=True) for rank in range(world)]
    for part in parts:
        (batch,) = part.batches(0)
        assert len(batch.indices) == min(16 // world, 2 * readable)
        assert set(batch.indices.tolist()) <= set(range(readable))
        assert len({name for name, _ in batch.skipped}) == len(batch.skipped)
        mix(batch.images, batch.labels, Mixing(), num_classes=1, smoothing=0.1, seed=0, step=0)
    if world == 1:
        assert set(batch.indices.tolist()) == set(range(readable))
        assert sorted(part.unreadable, key=int) == [str(index) for index in range(readable, 16)]


@pytest.mark.parametrize("readable", [1, 3, 7, 12])
def test_ranks_find_as_many_readable_images_as_each_other(readable):
    parts = [TrainBatches(FewReadable(13, readable), PREPROCESS, None, 8, 0, share=(rank, 2)) for rank in range(2)]
    for shares in zip(*(part.batches(3) for part in parts), strict=True):
        assert {len(share.indices) for share in shares} == {min(4, readable)}
