import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from leanformer.config import from_dict, to_dict
from leanformer.data.augment import Augment, array_draws, augment_arrays, augment_image, image_transform
from leanformer.data.randomness import generator, seeded
from leanformer.errors import ConfigError
from leanformer.models import Preprocess

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).resize((57, 43))
STRONG = Augment(auto_augment="rand-m9-mstd0.5-inc1", erase=0.7, interpolation="random")
POLICIES = [
    Augment(auto_augment="v0", erase=1.0, erase_mode="rand", erase_count=3),
    Augment(auto_augment="augmix-m3-w2"),
    Augment(auto_augment="3a", color_jitter=0.3, vflip=0.5),
]
PREPROCESS = Preprocess(image_size=(33, 30))


def draws(count, epoch=0):
    return array_draws(0, epoch, np.arange(count), np.zeros(count, np.int64))


def one_dot(height=9, width=7, batch=64):
    pixels = np.zeros((batch, height, width), np.uint8)
    pixels[:, 4, 2] = 255
    return pixels


@pytest.mark.parametrize("augment", [Augment(), STRONG, Augment(color_jitter=0.4), *POLICIES], ids=str)
def test_augmenting_depends_on_seed_epoch_and_index_alone(augment):
    transform = image_transform(augment, PREPROCESS)
    first = augment_image(transform, PHOTO, seed=3, epoch=1, index=7)
    torch.rand(3), np.random.rand(5), random.random()
    assert first.shape == (3, 33, 30)
    assert first.dtype == torch.float32
    assert torch.equal(first, augment_image(image_transform(augment, PREPROCESS), PHOTO, seed=3, epoch=1, index=7))
    others = [(4, 1, 7), (3, 2, 7), (3, 1, 8), (3, 7, 1)]
    assert not any(torch.equal(first, augment_image(transform, PHOTO, *other)) for other in others)


def test_augmenting_leaves_the_global_generators_as_they_were():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    augment_image(image_transform(STRONG, PREPROCESS), PHOTO, seed=0, epoch=0, index=0)
    with pytest.raises(KeyError), seeded("image", 0, 0, 0):
        raise KeyError
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_order_image_and_mixing_draw_from_streams_of_their_own():
    drawn = [generator(purpose, 1, 0).integers(2**62) for purpose in ("order", "image", "mixing")]
    assert len(set(drawn)) == 3


def test_no_variation_is_a_plain_resize():
    still = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)
    square = PHOTO.crop((0, 0, 43, 43))
    from leanformer.data import prepare

    out = augment_image(image_transform(still, PREPROCESS), square, 0, 0, 0)
    torch.testing.assert_close(out, prepare(square, Preprocess(image_size=(33, 30), crop=1.0, fit="squash")))


def test_an_unknown_policy_is_refused_with_names_that_exist():
    with pytest.raises(ConfigError, match="auto_augment 'randm9' is not a policy of timm; try rand-m9-mstd0.5-inc1"):
        image_transform(Augment(auto_augment="randm9"), PREPROCESS)


@pytest.mark.parametrize(("options", "message"), [
    ({"scale": (0.5, 0.2)}, "scale must be"),
    ({"scale": (0.0, 1.0)}, "scale must be"),
    ({"ratio": (2.0, 1.0)}, "ratio must be"),
    ({"shift": -1}, "shift must be 0 or more pixels, got -1"),
    ({"erase_count": 0}, "erase_count must be at least 1, got 0"),
    ({"vflip": 2.0}, "vflip is a probability, got 2.0"),
    ({"hflip": 1.5}, "hflip is a probability, got 1.5"),
    ({"erase": -0.1}, "erase is a probability, got -0.1"),
    ({"color_jitter": -1.0}, "color_jitter must be 0 or more"),
])  # fmt: skip
def test_impossible_augmentations_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Augment(**options)


def test_an_augmentation_survives_json():
    assert from_dict(to_dict(STRONG), Augment) == STRONG


def test_an_array_that_is_not_varied_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 7, 3), np.uint8)
    out = augment_arrays(pixels, Augment(shift=0, hflip=0.0), draws(len(pixels)))
    assert (out == pixels).all()
    assert (augment_arrays(pixels, Augment(shift=0, hflip=1.0), draws(len(pixels))) == pixels[:, :, ::-1]).all()


def test_arrays_move_by_every_shift_up_to_the_limit_and_no_further():
    out = augment_arrays(one_dot(batch=400), Augment(shift=2, hflip=0.0), draws(400))
    places = np.argwhere(out)
    assert len(places) == 400
    moves = {(int(y) - 4, int(x) - 2) for _, y, x in places}
    assert moves == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}


def test_half_of_an_array_is_flipped():
    out = augment_arrays(one_dot(batch=400), Augment(shift=0), draws(400))
    assert set(np.argwhere(out)[:, 2]) == {2, 4}
    assert 150 < (out[:, 4, 4] > 0).sum() < 250


def test_erasing_blackens_a_rectangle_in_the_asked_share_of_images():
    pixels = np.full((400, 12, 18), 255, np.uint8)
    out = augment_arrays(pixels, Augment(shift=0, erase=0.25), draws(len(pixels)))
    erased = [image for image in out if (image == 0).any()]
    assert 60 < len(erased) < 140
    for image in erased:
        rows, columns = (image == 0).any(1), (image == 0).any(0)
        assert (image == 0).sum() == rows.sum() * columns.sum()
        assert rows.sum() <= 7 and columns.sum() <= 10


def test_augmenting_arrays_depends_on_the_draws_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 6), np.uint8)
    augment = Augment(erase=0.5)
    first, again, other = (augment_arrays(pixels, augment, draws(9, epoch)) for epoch in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_each_image_of_an_array_is_varied_by_itself():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 6), np.uint8)
    copies = np.arange(9) % 3
    whole = augment_arrays(pixels, Augment(erase=0.5), array_draws(3, 1, np.arange(9), copies))
    for part in (slice(0, 2), slice(2, 9, 3)):
        drawn = array_draws(3, 1, np.arange(9)[part], copies[part])
        assert (augment_arrays(pixels[part], Augment(erase=0.5), drawn) == whole[part]).all()
    twice = array_draws(3, 1, np.array([4, 4]), np.array([0, 1]))
    assert (twice[0] != twice[1]).all()


def test_an_array_is_turned_upside_down():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 7), np.uint8)
    out = augment_arrays(pixels, Augment(shift=0, hflip=0.0, vflip=1.0), draws(5))
    assert (out == pixels[:, ::-1]).all()


def test_erasing_fills_several_rectangles():
    black = Image.new("RGB", (64, 64))
    plain = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)
    preprocess = Preprocess(image_size=(64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def colors(index, **options):
        transform = image_transform(replace(plain, erase=1.0, **options), preprocess)
        return len(augment_image(transform, black, 0, 0, index).flatten(1).unique(dim=1).T)

    assert {colors(index, erase_mode="rand") for index in range(6)} == {2}
    assert max(colors(index, erase_mode="rand", erase_count=8) for index in range(6)) > 4
    assert colors(0, erase_mode="pixel") > 50
    assert colors(0, erase_mode="const") == 1


@pytest.mark.parametrize("policy", ["rand-m10-n9-inc1", "rand-m10-n9", "augmix-m10", "v0", "v0r", "3a"])
def test_policies_at_their_full_strength_vary_every_image(policy):
    transform = image_transform(Augment(auto_augment=policy), PREPROCESS)
    for index in range(150):
        assert augment_image(transform, PHOTO, 0, 0, index).isfinite().all()
