"""Which images an epoch shows, in which order: a pure function of (seed, epoch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leanformer.config import register_config
from leanformer.data.randomness import generator
from leanformer.errors import ConfigError

GRAIN = 256
"""Repeated augmentation shows a multiple of so many images in an epoch, as it was published."""


@register_config("sampling")
class Sampling:
    """What an epoch takes of the training images."""

    repeat: int = 1
    """How often an image is shown in a row, varied differently each time, while an epoch stays as long as it was
    (repeated augmentation, https://arxiv.org/abs/1902.05509; 3 in DeiT)."""
    balanced: bool = False
    """Whether every class is shown equally often."""
    fraction: float = 1.0
    """Share of the images of each class that training sees, always the same ones; smaller shares lie in larger ones."""

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise ConfigError(f"repeat must be at least 1, got {self.repeat}")
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction must be above 0 and at most 1, got {self.fraction}")


@dataclass(frozen=True)
class Order:
    """What an epoch shows."""

    indices: np.ndarray
    """int64 (N,), the images' numbers."""
    copies: np.ndarray
    """int64 (N,), how often the epoch has shown the image before."""

    def __len__(self) -> int:
        return len(self.indices)


def epoch_order(labels: np.ndarray, sampling: Sampling, seed: int, epoch: int) -> Order:
    """What epoch `epoch` of a run shows of images with these labels, whatever the number of ranks."""
    members = subset(labels, sampling.fraction)
    random = generator("order", seed, epoch)
    if sampling.balanced:
        order = members[_balanced(labels[members], random)]
    else:
        order = random.permutation(len(members)) if len(members) == len(labels) else random.permutation(members)
    return repeated_order(order, sampling)


def repeated_order(order: np.ndarray, sampling: Sampling) -> Order:
    """The order with its images repeated as `sampling` says, and how often each was shown before."""
    order = repeated(order, sampling.repeat)
    if sampling.balanced or sampling.repeat > 1:
        return Order(order, _occurrences(order))
    return Order(order, np.broadcast_to(np.int64(0), len(order)))


def repeated(order: np.ndarray, repeat: int, rank: int = 0, world: int = 1) -> np.ndarray:
    """The order with every image `repeat` times in a row, cut to the length of a usual epoch; the part of one rank,
    which takes every `world`-th image."""
    if repeat == 1:
        return order[rank::world]
    length = len(order) // GRAIN * GRAIN or len(order)
    return np.repeat(order[: -(-length // repeat)], repeat)[:length][rank::world]


def subset(labels: np.ndarray, fraction: float) -> np.ndarray:
    """The numbers, sorted, of the same share of the images of each class, at least one of each."""
    if fraction == 1:
        return np.arange(len(labels))
    rank_in_class = _occurrences(labels[(shuffled := generator("order", 0, 0).permutation(len(labels)))])
    counts = np.bincount(labels + 1)[labels[shuffled] + 1]  # -1 is an image without a label
    return np.sort(shuffled[rank_in_class < np.ceil(fraction * counts)])


def class_weights(labels: np.ndarray, num_classes: int, power: float = 1.0) -> np.ndarray:
    """Weights of the classes in a loss, float32 (num_classes,): the rarer the heavier, with a mean of 1 over the
    images; 0 for a class without images.

    Args:
        power: 1 makes all classes count alike, 0 all images.
    """
    counts = np.bincount(labels[labels >= 0], minlength=num_classes).astype(np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0.0)
    return (weights * counts.sum() / max((weights * counts).sum(), 1e-12)).astype(np.float32)


def _balanced(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many places in `labels` as there are, of each class as many as of every other, give or take one."""
    classes, counts = np.unique(labels, return_counts=True)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    wanted = np.full(len(classes), len(labels) // len(classes))
    wanted[random.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    chosen = []
    for members, count in zip(by_class, wanted, strict=True):
        rounds = [random.permutation(members) for _ in range(-(-int(count) // len(members)))]
        chosen.append(np.concatenate([*rounds, members[:0]])[:count])
    return random.permutation(np.concatenate(chosen))


def _occurrences(values: np.ndarray) -> np.ndarray:
    """How often each value occurred before its place; int64 (N,)."""
    by_value = np.argsort(values, kind="stable")
    is_first = np.diff(values[by_value], prepend=values[by_value[:1]] - 1) != 0
    starts = np.flatnonzero(is_first)
    before = np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))
    out = np.empty(len(values), np.int64)
    out[by_value] = before
    return out
