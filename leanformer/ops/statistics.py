"""Statistics of features over many images, a batch at a time, and the entropies that plans compare networks by
("MLP Can Be A Good Transformer Learner", https://arxiv.org/abs/2404.05657)."""

from __future__ import annotations

import torch
from torch import Tensor

RESOLUTION = 1e-6
"""Spread, over the features' root mean square, below which float32 arithmetic tells nothing from a constant."""


class Moments:
    """Mean and variance of each channel of rows that come in batches, in float64 and without keeping a row.

    Batches are merged by the parallel form of Welford's update (Chan, Golub and LeVeque, 1979), which does not lose
    digits where the mean is large against the spread.

    Attributes:
        count: rows seen.
        mean: (C,), float64 on the CPU.
        squares: (C,) sum of squared deviations from the mean.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Take in rows (B, C)."""
        rows = rows.detach().cpu().double()
        mean = rows.mean(dim=0)
        total = self.count + len(rows)
        step = mean - self.mean
        within = (rows - mean).square().sum(dim=0)
        self.squares = self.squares + within + step.square() * (self.count * len(rows) / total)
        self.mean = self.mean + step * (len(rows) / total)
        self.count = total

    def variance(self, *, unbiased: bool) -> Tensor:
        """(C,); NaN for no row, or for one where the estimate divides by the number of rows less one."""
        return self.squares / (self.count - unbiased if self.count > unbiased else torch.nan)

    def root_mean_square(self) -> float:
        """Of everything seen, over rows and channels."""
        return (self.mean.square() + self.variance(unbiased=False)).mean().sqrt().item()


def gaussian_entropy(moments: Moments, *, unbiased: bool = False) -> float:
    """Sum over the channels of ln(standard deviation): the entropy in nats of channels that are Gaussian and
    independent, less the constant ln(2 pi e) / 2 of each, which cancels between networks.

    A channel that does not vary would count minus infinity; it counts as one that varies by `RESOLUTION` of the
    features' root mean square, about what rounding leaves of a constant. The result is minus infinity only where every
    feature is 0.

    Args:
        unbiased: divide the squares by the number of rows less one. The published tool does for scores, and not for
            features.
    """
    floor = RESOLUTION * moments.root_mean_square()
    return moments.variance(unbiased=unbiased).sqrt().clamp_min(floor).log().sum().item()


def constant_channels(moments: Moments) -> list[int]:
    """The channels that vary by less than `gaussian_entropy` can tell from a constant."""
    spread = moments.variance(unbiased=False).sqrt()
    return (spread <= RESOLUTION * moments.root_mean_square()).nonzero().flatten().tolist()
