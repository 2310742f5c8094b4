import logging

import pytest
import torch

from leanformer.data import TrainBatches, open_data, reading
from leanformer.data.reading import batches_ahead
from leanformer.data.synthetic import write_folder
from leanformer.models import Preprocess


def test_workers_hold_no_more_than_half_of_the_shared_memory():
    assert batches_ahead(None, 4, 10**9) == 2
    assert batches_ahead(10**10, 4, 10**9) == 1
    assert batches_ahead(10**11, 4, 10**9) == 2
    assert batches_ahead(64 << 20, 1, 10**9) == 0


def test_without_shared_memory_batches_come_through_pipes_and_are_the_same(tmp_path, monkeypatch, caplog):
    data = open_data(write_folder(tmp_path, per_class=5, num_unreadable=1), "train")
    alone, helped = (TrainBatches(data, Preprocess(image_size=(9, 7)), None, 4, 0, workers) for workers in (0, 2))
    monkeypatch.setattr(reading, "_room", lambda: 1000)
    with caplog.at_level(logging.WARNING):
        batches = list(helped.batches(0))
    assert "/dev/shm has no room for 2 batches of 0 MB" in caplog.text
    for ours, theirs in zip(batches, alone.batches(0), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.skipped == theirs.skipped


@pytest.mark.skipif(reading._room() is None, reason="shared memory is no file system here")
def test_the_room_in_shared_memory_is_known():
    assert reading._room() > 0
