"""Image classification: cross entropy, top-k accuracy, and what a report needs of every single image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanformer.data.loading import Batch
from leanformer.errors import ConfigError, DataError
from leanformer.tasks.distill import Distill, Teacher
from leanformer.tasks.multi_label import MultiLabelMetrics, MultiLabelTally, in_order

TOP_K = 5


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How a model did on a data set. Sums run over images, so batch sizes do not matter."""

    top1: float
    """Share of the images whose most probable class is right."""
    top5: float
    """Share of the images whose class is among the five most probable (or among all, if there are fewer)."""
    loss: float
    """Mean cross entropy over the images, without label smoothing."""
    brier: float | None = None
    """Mean over the images of the squared distance between the probabilities and the truth, 0 to 2."""
    count: int
    num_classes: int
    indices: Tensor
    """int64 (count,), the images' numbers in the data set, rising; the next three belong to the same images."""
    labels: Tensor
    predictions: Tensor
    """int64 (count,), the most probable class of each image."""
    probabilities: Tensor
    """float32 (count,), how probable the prediction is to the model."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Name and error of images that could not be read and count for nothing."""

    score_name: ClassVar[str] = "top-1"

    @property
    def score(self) -> float:
        """The figure that sums the others up."""
        return self.top1

    def confusion(self) -> Tensor:
        """int64 (num_classes, num_classes): how often the row's class was taken for the column's."""
        pairs = self.labels * self.num_classes + self.predictions
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        return counts.view(self.num_classes, self.num_classes)

    def summary(self) -> dict[str, Any]:
        """The figures alone, for a log or a JSON file."""
        return {"top1": self.top1, "top5": self.top5, "loss": self.loss, "count": self.count}


def format_line(metrics: Metrics | MultiLabelMetrics) -> str:
    """One line for people, accuracies in percent."""
    if isinstance(metrics, MultiLabelMetrics):
        return metrics.line()
    return f"* Acc@1 {100 * metrics.top1:.3f} Acc@5 {100 * metrics.top5:.3f} loss {metrics.loss:.3f}"


Loss = Literal["cross_entropy", "binary_cross_entropy"]


class Classification:
    """One label for each image, or a target for each class.

    Args:
        label_smoothing: share of the target that is spread evenly over all classes while training.
        loss: of the labels; the binary one asks about each class by itself.
        distill: how the teacher is learned from.
        class_weights: (num_classes,), what an image of each class counts in the loss; for the binary one, what the
            presence of a class counts beside its absence.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        loss: Loss = "cross_entropy",
        distill: Distill | None = None,
        teacher: Teacher | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        assert (distill is None) == (teacher is None)
        self.label_smoothing = label_smoothing
        self.loss = loss
        self.distill, self.teacher = distill, teacher
        self.class_weights = class_weights

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The terms of the training loss, to be added up. Labels are classes (B,) or targets (B, num_classes), which
        are not smoothed any more."""
        scores = model(batch.images)
        first, second = scores if isinstance(scores, tuple) else (scores, scores)
        loss = self._labels_loss(first.float(), batch.labels)
        if self.distill is None or self.teacher is None:
            return {"loss": loss}
        taught = self.distill.loss(second.float(), self.teacher(batch.images))
        return {"loss": (1 - self.distill.share) * loss, "distillation": self.distill.share * taught}

    def _labels_loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        hard, weights = labels.ndim == 1, self.class_weights
        if self.loss == "cross_entropy":
            smoothing = self.label_smoothing if hard else 0.0
            if weights is None:
                return F.cross_entropy(scores, labels, label_smoothing=smoothing)
            # The mean is over the images and not over their weights, so that it is the same for a batch in parts.
            share = weights[labels] if hard else labels.to(weights.dtype) @ weights
            return (share * F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="none")).mean()
        if hard:
            spread = self.label_smoothing / scores.shape[1]
            labels = F.one_hot(labels, scores.shape[1]) * (1 - self.label_smoothing) + spread
        return F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), pos_weight=weights)

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, batches: Iterable[Batch], gather: Callable[[Any], list[Any]] | None = None
    ) -> Metrics | MultiLabelMetrics:
        """Measure the model in eval mode, on its own device; its mode is restored afterwards.

        Images of several classes have other figures than images of one.

        Args:
            gather: gives what all processes pass to it, where each has a share of the images; the figures are then of
                all of them, the same as of one process with all images.

        Raises:
            DataError: if there is no image to measure.
        """
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        was_training = model.training
        model.eval()
        tally: _Tally | MultiLabelTally | None = None
        try:
            for batch in batches:
                tally = tally or (_Tally() if batch.labels.ndim == 1 else MultiLabelTally())
                scores = model(batch.images.to(device, non_blocking=True)).float().cpu()
                tally.add(scores, batch)
        finally:
            model.train(was_training)
        tallies = [each for each in (gather or _alone)(tally) if each is not None]
        if not tallies:
            raise DataError("there was no image to evaluate")
        return tallies[0].joined(tallies[1:]).metrics()


def _alone(tally: Any) -> list[Any]:
    return [tally]


class _Tally:
    """What each image of the batches seen so far has come to."""

    def __init__(self) -> None:
        self.num_classes = 0
        self.columns: list[tuple[Tensor, ...]] = []
        """Of each batch: indices, labels, predictions, their probabilities, whether the label is among the most
        probable classes, losses and Brier scores."""
        self.skipped: list[tuple[str, str]] = []

    def add(self, scores: Tensor, batch: Batch) -> None:
        """Count a batch of scores, (B, num_classes)."""
        self.num_classes = scores.shape[1]
        best = scores.topk(min(TOP_K, self.num_classes), dim=1).indices
        found = (best == batch.labels[:, None]).any(1)
        shares = scores.softmax(dim=1)
        of_truth = shares.gather(1, batch.labels[:, None]).double()[:, 0]
        brier = shares.double().square().sum(1) + (1 - 2 * of_truth)
        probabilities, predictions = shares.max(dim=1)
        losses = F.cross_entropy(scores.double(), batch.labels, reduction="none")
        self.columns.append((batch.indices, batch.labels, predictions, probabilities, found, losses, brier))
        self.skipped.extend(batch.skipped)

    def joined(self, others: Sequence[_Tally]) -> _Tally:
        """What this one and the others have counted."""
        both = _Tally()
        both.num_classes = self.num_classes
        for tally in (self, *others):
            both.columns += tally.columns
            both.skipped += tally.skipped
        return both

    def metrics(self) -> Metrics:
        """The figures of everything counted."""
        indices, labels, predictions, probabilities, found, losses, brier = in_order(self.columns)
        count = len(labels)
        return Metrics(
            top1=int((predictions == labels).sum()) / count,
            top5=int(found.sum()) / count,
            loss=losses.sum().item() / count,
            brier=brier.sum().item() / count,
            count=count,
            num_classes=self.num_classes,
            indices=indices,
            labels=labels,
            predictions=predictions,
            probabilities=probabilities,
            skipped=tuple(self.skipped),
        )
