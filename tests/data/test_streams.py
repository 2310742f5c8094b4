import io
import pickle
import threading
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from leanformer.data import Augment, EvalBatches, Sampling, TrainBatches
from leanformer.data.streams import FedSteps, Reel, Stream, StreamedImages, ahead, through_buffer
from leanformer.data.timing import measure_parts
from leanformer.errors import ConfigError, TrainingError
from leanformer.models import Preprocess

PLAIN = Preprocess(image_size=(4, 5))
SIZES = (7, 0, 11, 5, 9, 1)


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


class Tape:
    """Shards in memory that count what is read of them; some rows are broken, or missing."""

    title = "tape"

    def __init__(self, sizes=SIZES, broken=(), cut=0):
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.broken, self.cut = set(broken), cut
        self.read = []

    def rows(self, shard):
        for number in range(self.starts[shard], self.starts[shard + 1] - self.cut):
            self.read.append(int(number))
            yield b"" if number in self.broken else png(int(number))


def streamed(tape=None, buffer=4, members=None, sizes=SIZES):
    tape = tape or Tape(sizes)
    members = np.arange(sum(sizes)) if members is None else np.asarray(members)
    return StreamedImages(Stream(tape, sizes), members, members % 2, ("even", "odd"), buffer=buffer)


def train(data, batch_size=4, augment=None, **options):
    return TrainBatches(data, PLAIN, augment, batch_size, 3, **options)


def shown(batches):
    return [batch.indices.tolist() for batch in batches]


def assert_same(ours, theirs):
    assert ours.skipped == theirs.skipped
    for name in ("images", "labels", "indices"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("places", [1, 4, 33, 500])
def test_a_buffer_loses_nothing_and_lets_nothing_out_before_it_came_in(places):
    line = np.random.default_rng(0).permutation(33) + 100
    out = through_buffer(line, places, np.random.default_rng(1))
    assert sorted(out) == sorted(line)
    came = {number: place for place, number in enumerate(line.tolist())}
    assert all(came[number] < place + places for place, number in enumerate(out.tolist()))
    assert (out.tolist() == line.tolist()) == (places == 1)


def test_an_epoch_shows_every_image_once_in_an_order_of_seed_and_epoch_alone():
    data = streamed()
    orders = [data.order(Sampling(), seed, epoch).indices.tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(33)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert streamed().order(Sampling(), 0, 1).indices.tolist() == orders[1]


def test_a_buffer_of_one_place_shows_whole_shards_one_after_another():
    stream = streamed(buffer=1).stream
    order = streamed(buffer=1).order(Sampling(), 0, 0).indices
    shards = stream.find(order)
    assert (np.diff(shards) != 0).sum() == len(np.unique(shards)) - 1
    assert shards.tolist() != sorted(shards.tolist())


def test_batches_hold_the_images_that_the_order_says():
    data = streamed()
    order = data.order(Sampling(), 3, 1).indices.tolist()
    batches = list(train(data).batches(1))
    assert list(chain(*shown(batches))) == order[:32]
    for batch in batches:
        assert torch.equal(batch.labels, batch.indices % 2)
        red = batch.images[:, 0, 2, 3] * PLAIN.std[0] + PLAIN.mean[0]
        torch.testing.assert_close(red, batch.indices / 255)


def test_workers_change_nothing():
    alone, helped = (train(streamed(Tape(broken={9, 20})), augment=Augment(), workers=count) for count in (0, 2))
    for epoch, start in ((0, 0), (2, 3)):
        for ours, theirs in zip(helped.batches(epoch, start), alone.batches(epoch, start), strict=True):
            assert_same(ours, theirs)


def test_an_epoch_goes_on_at_any_step_without_opening_what_was_shown():
    whole = list(train(streamed(sizes=(9, 9, 9))).batches(1))
    for start in range(len(whole)):
        tape = Tape((9, 9, 9))
        rest = list(train(streamed(tape, sizes=(9, 9, 9))).batches(1, start))
        assert len(rest) == len(whole) - start
        for ours, theirs in zip(rest, whole[start:], strict=True):
            assert_same(ours, theirs)
    assert len(tape.read) <= 9 + 4


def test_every_row_is_read_once_in_an_epoch_and_few_wait():
    tape = Tape()
    list(train(streamed(tape), batch_size=3).batches(0))
    assert sorted(tape.read) == list(range(33))
    data = streamed()
    order = data.order(Sampling(), 0, 0).indices
    reel, waiting = Reel(data.stream, order), []
    for number in order.tolist():
        reel.take(number)
        waiting.append(len(reel))
    assert max(waiting) <= 4
    assert waiting[-1] == 0


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_see_together_what_one_sees(world):
    one = shown(train(streamed(), batch_size=6).batches(0))
    ranks = [shown(train(streamed(), batch_size=6, share=(rank, world)).batches(0)) for rank in range(world)]
    for step, batch in enumerate(one):
        assert [index for part in zip(*(rank[step] for rank in ranks), strict=True) for index in part] == batch


def test_a_part_of_a_stream_and_repeated_images_follow_the_same_rules():
    members = np.flatnonzero(np.arange(33) % 3 > 0)
    data = streamed(members=members)
    batches = list(train(data, sampling=Sampling(fraction=0.5, repeat=2)).batches(0))
    kept = data.order(Sampling(fraction=0.5), 3, 0).indices
    assert len(kept) < len(data)
    assert set(chain(*shown(batches))) <= set(kept.tolist())
    for batch in batches:
        reds = (batch.images[:, 0, 0, 0] * PLAIN.std[0] + PLAIN.mean[0]) * 255
        torch.testing.assert_close(reds.round().long(), torch.from_numpy(members)[batch.indices])
        assert batch.indices.tolist() == [index for index in batch.indices.tolist()[::2] for _ in range(2)]
    with pytest.raises(ConfigError, match="a stream cannot be shown balanced.*class_weights=balanced"):
        train(data, sampling=Sampling(balanced=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_every_image_once_in_order(workers):
    tape = Tape(broken={8})
    batches = list(EvalBatches(streamed(tape), PLAIN, 4, workers))
    assert list(chain(*shown(batches))) == [index for index in range(33) if index != 8]
    assert [name for batch in batches for name, _ in batch.skipped] == ["tape[8]"]
    assert sorted(tape.read) == list(range(33))


def test_an_image_is_read_by_its_number_too_forward_without_starting_again():
    tape = Tape()
    data = streamed(tape)
    assert [data.image(index).getpixel((0, 0))[0] for index in (8, 9, 12, 30)] == [8, 9, 12, 30]
    assert len(tape.read) == len(set(tape.read))
    assert data.image(9).getpixel((0, 0))[0] == 9
    assert pickle.loads(pickle.dumps(data)).image(3).getpixel((0, 0))[0] == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_has_become_shorter_ends_the_run(workers):
    loader = train(streamed(Tape(cut=2)), workers=workers)
    with pytest.raises(
        TrainingError, match=r"tape: shard \d ends before row \d+, so it is not the one that was counted"
    ):
        list(loader.batches(0))


def test_reading_ahead_gives_all_in_order_and_ends_with_its_reader():
    made = []

    def source():
        for number in range(10):
            made.append(number)
            yield number
        raise OSError("gone")

    taken = ahead(source(), 2)
    assert [next(taken) for _ in range(3)] == [0, 1, 2]
    taken.close()
    assert len(made) <= 7
    assert not any(thread.name.startswith("stream") for thread in threading.enumerate())
    with pytest.raises(OSError, match="gone"):
        list(ahead(source(), 3))


def test_a_stream_is_timed_on_its_first_images():
    tape = Tape()
    measure_parts(streamed(tape), PLAIN, None, num_images=5)
    assert tape.read == list(range(6))


def test_steps_know_how_many_they_are():
    data = streamed()
    assert len(FedSteps(data, [(0, 1), (0, 2)], lambda step: np.arange(3))) == 2
    assert list(FedSteps(data, [], lambda step: np.arange(3))) == []
