"""Calibration: whether a model that says 80 % is right in 80 of 100 cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from leanformer.tasks.classify import Metrics

NUM_BINS = 15


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The images whose prediction has a probability in (low, high]."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean probability of their predictions; 0 without images, like the accuracy."""
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far the probabilities of the predictions can be trusted."""

    ece: float
    """Expected calibration error (https://arxiv.org/abs/1706.04599): the mean gap between confidence and accuracy over
    the images, taken in bins of equal width."""
    confidence: float
    """Mean probability of the predictions; above the accuracy, the model is too sure of itself."""
    nll: float
    """Mean negative log-likelihood, in nats."""
    brier: float | None
    bins: tuple[Bin, ...]

    def summary(self) -> dict[str, Any]:
        """The figures for a JSON file."""
        return {"ece": self.ece, "confidence": self.confidence, "nll": self.nll, "brier": self.brier}


def measure_calibration(metrics: Metrics, num_bins: int = NUM_BINS) -> Calibration:
    """The calibration of the predictions that `metrics` holds."""
    confidence = metrics.probabilities.double()
    right = (metrics.predictions == metrics.labels).double()
    number = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    bins = []
    for index in range(num_bins):
        inside = number == index
        count = int(inside.sum())
        bins.append(
            Bin(
                low=index / num_bins,
                high=(index + 1) / num_bins,
                count=count,
                confidence=_mean(confidence[inside]),
                accuracy=_mean(right[inside]),
            )
        )
    return Calibration(
        ece=sum(item.count * abs(item.confidence - item.accuracy) for item in bins) / max(metrics.count, 1),
        confidence=_mean(confidence),
        nll=metrics.loss,
        brier=metrics.brier,
        bins=tuple(bins),
    )


def _mean(values: torch.Tensor) -> float:
    return values.mean().item() if len(values) else 0.0
