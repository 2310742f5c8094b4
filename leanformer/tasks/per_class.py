"""The figures of each class of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from leanformer.tasks.classify import Metrics


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """How a model does on one class; a share of nothing is None."""

    label: int
    count: int
    """Images of the class."""
    accuracy: float | None
    """Share of the class's images that are recognized (its recall)."""
    precision: float | None
    """Share of the images taken for the class that are of it."""
    mistaken_for: int | None
    """The class that its images are most often taken for otherwise."""


def measure_classes(metrics: Metrics) -> list[ClassFigures]:
    """The figures of every class, the least accurate first; classes without images come last."""
    confusion = metrics.confusion()
    totals, predicted, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    others = confusion.clone().fill_diagonal_(0)
    most, place = others.max(dim=1)
    columns = zip(totals.tolist(), predicted.tolist(), right.tolist(), most.tolist(), place.tolist(), strict=True)
    found = [
        ClassFigures(
            label=label,
            count=total,
            accuracy=hits / total if total else None,
            precision=hits / taken if taken else None,
            mistaken_for=other if misses else None,
        )
        for label, (total, taken, hits, misses, other) in enumerate(columns)
    ]
    return sorted(found, key=lambda item: (item.accuracy is None, item.accuracy))
