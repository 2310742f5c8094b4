"""Which predictions to show, and how one is described: enough right ones to trust, and the mistakes it was surest
of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image with what it is and what the model says."""

    image: np.ndarray
    """(H, W, 3) or (H, W), bytes."""
    true: str
    predicted: str
    probability: float
    """Of the predicted class."""

    @property
    def right(self) -> bool:
        """Whether the predicted class is the true one."""
        return self.true == self.predicted


def choose_predictions(
    labels: Sequence[int], predicted: Sequence[int], probabilities: Sequence[float], count: int = 16
) -> list[int]:
    """Indices of the images to show, the same at every call: half right ones, spread over the classes in turn, then the
    most confident mistakes; one kind fills up where the other runs out."""
    right = [i for i in range(len(labels)) if labels[i] == predicted[i]]
    seen: dict[int, int] = {}
    rank = {}
    for index in right:
        rank[index] = seen[labels[index]] = seen.get(labels[index], -1) + 1
    right.sort(key=lambda index: (rank[index], labels[index]))
    wrong = [i for i in range(len(labels)) if labels[i] != predicted[i]]
    wrong.sort(key=lambda index: (-probabilities[index], index))
    num_wrong = min(len(wrong), max(count // 2, count - len(right)))
    return right[: count - num_wrong] + wrong[:num_wrong]
