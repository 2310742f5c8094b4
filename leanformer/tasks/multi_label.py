"""How well a model tells several classes of an image: average precision, F1 and the share of images all right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from leanformer.data.loading import Batch

THRESHOLD = 0.5
"""Probability from which on a class counts as found."""
ROWS = 4096
"""Images whose scores are widened at a time."""


@dataclass(frozen=True, kw_only=True)
class MultiLabelMetrics:
    """How a model did on images of several classes, each of which it answers by itself.

    Means over classes leave out those that no image has.
    """

    mean_average_precision: float
    """Mean over the classes of the area under precision against recall, images of equal probability taken at once."""
    micro_f1: float
    """F1 at a probability of 0.5, of all images and classes counted together."""
    macro_f1: float
    """Mean over the classes of their F1 at a probability of 0.5."""
    subset_accuracy: float
    """Share of the images of which every class is right."""
    loss: float
    """Mean binary cross entropy over images and classes."""
    count: int
    num_classes: int
    indices: Tensor
    """int64 (count,), the images' numbers in the data set, rising."""
    labels: Tensor
    """bool (count, num_classes)."""
    probabilities: Tensor
    """float32 (count, num_classes)."""
    average_precision: Tensor
    """float64 (num_classes,); NaN for a class that no image has, as in the next."""
    f1: Tensor
    skipped: tuple[tuple[str, str], ...] = ()
    """Name and error of images that could not be read and count for nothing."""

    score_name: ClassVar[str] = "mAP"

    @property
    def score(self) -> float:
        """The figure that sums the others up."""
        return self.mean_average_precision

    def summary(self) -> dict[str, Any]:
        """The figures alone, for a log or a JSON file."""
        return {
            "mAP": self.mean_average_precision,
            "micro_f1": self.micro_f1,
            "macro_f1": self.macro_f1,
            "subset_accuracy": self.subset_accuracy,
            "loss": self.loss,
            "count": self.count,
        }

    def line(self) -> str:
        """One line for people, shares in percent."""
        return (
            f"* mAP {100 * self.mean_average_precision:.3f} F1 micro {100 * self.micro_f1:.3f} "
            f"macro {100 * self.macro_f1:.3f} all right {100 * self.subset_accuracy:.3f} loss {self.loss:.3f}"
        )


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """How a model finds one class; None if no image has it."""

    label: int
    count: int
    """Images that have the class."""
    average_precision: float | None
    f1: float | None


def measure_class_scores(metrics: MultiLabelMetrics) -> list[ClassScores]:
    """The figures of every class, the least precise first; classes without images come last."""
    columns = (metrics.labels.sum(0).tolist(), metrics.average_precision.tolist(), metrics.f1.tolist())
    found = [
        ClassScores(
            label=label,
            count=count,
            average_precision=precision if count else None,
            f1=f1 if count else None,
        )
        for label, (count, precision, f1) in enumerate(zip(*columns, strict=True))
    ]
    return sorted(found, key=lambda item: (item.average_precision is None, item.average_precision))


class MultiLabelTally:
    """Scores and targets of the batches seen so far."""

    def __init__(self) -> None:
        self.columns: list[tuple[Tensor, ...]] = []
        """Of each batch: indices, labels and scores. The last bit of what is computed of a score depends on its place
        in a tensor, so that is done for all together."""
        self.skipped: list[tuple[str, str]] = []

    def add(self, scores: Tensor, batch: Batch) -> None:
        """Count a batch of scores, (B, num_classes)."""
        self.columns.append((batch.indices, batch.labels > 0, scores))
        self.skipped.extend(batch.skipped)

    def joined(self, others: Sequence[MultiLabelTally]) -> MultiLabelTally:
        """What this one and the others have counted."""
        both = MultiLabelTally()
        for tally in (self, *others):
            both.columns += tally.columns
            both.skipped += tally.skipped
        return both

    def metrics(self) -> MultiLabelMetrics:
        """The figures of everything counted."""
        indices, labels, scores = in_order(self.columns)
        probabilities = scores.sigmoid()
        found = probabilities >= THRESHOLD
        right, wrong = (found & labels).sum(0), (found ^ labels).sum(0)
        present = labels.any(0)
        f1 = _f1(right, wrong).masked_fill(~present, torch.nan)
        precision = torch.stack([average_precision(probabilities[:, c], labels[:, c]) for c in range(labels.shape[1])])
        return MultiLabelMetrics(
            mean_average_precision=_mean(precision[present]),
            micro_f1=_f1(right.sum(), wrong.sum()).item(),
            macro_f1=_mean(f1[present]),
            subset_accuracy=(found == labels).all(1).double().mean().item(),
            loss=_loss(scores, labels),
            count=len(labels),
            num_classes=labels.shape[1],
            indices=indices,
            labels=labels,
            probabilities=probabilities,
            average_precision=precision,
            f1=f1,
            skipped=tuple(self.skipped),
        )


def _loss(scores: Tensor, labels: Tensor) -> float:
    """Mean binary cross entropy of scores (N, C) for labels (N, C), summed in float64, some rows at a time."""
    total = 0.0
    for rows, targets in zip(scores.split(ROWS), labels.split(ROWS), strict=True):
        total += F.binary_cross_entropy_with_logits(rows.double(), targets.double(), reduction="sum").item()
    return total / labels.numel()


def in_order(batches: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """The columns of all batches, the first of which numbers the images, in the order of these numbers: what is summed
    up does not depend on how the images were shared out."""
    columns = [torch.cat(column) for column in zip(*batches, strict=True)]
    order = columns[0].argsort(stable=True)
    return [column[order] for column in columns]


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """The area under precision against recall of scores (N,) for labels (N,), as steps; float64, NaN without a label.

    Images of equal score are found together, so their order does not matter.
    """
    values, order = scores.sort(descending=True, stable=True)
    hits = labels[order].double().cumsum(0)
    last = torch.ones_like(labels)  # of the images of equal score
    last[:-1] = values[:-1] != values[1:]
    places = last.nonzero()[:, 0]
    found = hits[places]
    gained = found.diff(prepend=found.new_zeros(1))
    return (gained * found / (places + 1)).sum() / hits[-1]


def _f1(right: Tensor, wrong: Tensor) -> Tensor:
    """F1 from how often a class was found rightly and answered wrongly; 0 where it is neither there nor found."""
    return 2 * right.double() / (2 * right + wrong).clamp(min=1)


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else 0.0
