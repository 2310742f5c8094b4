"""Mixing is timm's, depends on seed and step alone, and keeps images and targets together."""

import numpy as np
import pytest
import torch

from leanformer.config import from_dict, to_dict
from leanformer.data.mixing import Mixing, mix
from leanformer.errors import ConfigError

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def encoded(labels):
    """Images whose mean over each channel says how much of each class is in them."""
    return torch.nn.functional.one_hot(labels, 5).float()[:, :, None, None].expand(-1, -1, 8, 9).clone()


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_say_what_is_in_the_images(mode, mixup, cutmix):
    mixing = Mixing(mixup=mixup, cutmix=cutmix, mode=mode)
    images, targets = mix(encoded(LABELS), LABELS, mixing, num_classes=5, smoothing=0.0, seed=3, step=8)
    torch.testing.assert_close(images.mean(dim=(2, 3)), targets, rtol=1e-4, atol=1e-5)
    assert not torch.equal(targets, encoded(LABELS)[:, :, 0, 0])


def test_a_step_is_mixed_alike_whatever_came_before_and_others_otherwise():
    def at(step, seed=0):
        return mix(encoded(LABELS), LABELS, Mixing(), num_classes=5, smoothing=0.1, seed=seed, step=step)[1]

    first = at(4)
    np.random.seed(1)
    assert torch.equal(at(4), first)
    assert not torch.equal(at(5), first)
    assert not torch.equal(at(4, seed=1), first)


def test_mixing_leaves_its_input_and_the_callers_random_numbers_alone():
    images = encoded(LABELS)
    np.random.seed(2)
    expected = np.random.rand()
    np.random.seed(2)
    mix(images, LABELS, Mixing(), num_classes=5, smoothing=0.1, seed=0, step=0)
    assert np.random.rand() == expected
    assert torch.equal(images, encoded(LABELS))


def test_unmixed_targets_are_smoothed_like_those_of_the_loss():
    _, targets = mix(encoded(LABELS), LABELS, Mixing(probability=0.0), num_classes=5, smoothing=0.1, seed=0, step=0)
    scores = torch.randn(6, 5)
    smoothed = torch.nn.functional.cross_entropy(scores, LABELS, label_smoothing=0.1)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(scores, targets), smoothed)


def test_mixing_survives_json():
    assert from_dict(to_dict(Mixing(mode="elem")), Mixing) == Mixing(mode="elem")


@pytest.mark.parametrize(
    "changes", [{"mixup": 0.0, "cutmix": 0.0}, {"probability": 1.5}, {"switch": -1}, {"mode": "x"}]
)
def test_impossible_mixing_names_the_value(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Mixing(**changes)
