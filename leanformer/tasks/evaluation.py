"""A finished model's figures on a data set that need not name the model's classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from torch import nn

from leanformer.data import EvalBatches, LabeledImages
from leanformer.data.labeled import has_several
from leanformer.models import ImageClassifier, Preprocess
from leanformer.tasks.classify import Classification, Metrics
from leanformer.tasks.matching import AmongClasses, InWholeBatches, OverViews, find_columns
from leanformer.tasks.multi_label import MultiLabelMetrics

if TYPE_CHECKING:
    from leanformer.data.views import Views


class Classifier(Protocol):
    """A module that can be evaluated: a model of ours, or an exported file."""

    classes: tuple[str, ...] | None
    preprocess: Preprocess


class Processes(Protocol):
    """Those that share the images, as one of them sees them."""

    @property
    def share(self) -> tuple[int, int]:
        """Which of them this is, and how many there are."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """The values of all of them."""
        ...


def evaluate_images(
    model: Classifier,
    images: LabeledImages,
    title: str,
    batch_size: int,
    workers: int = 0,
    views: Views | None = None,
    processes: Processes | None = None,
) -> Metrics | MultiLabelMetrics:
    """The model's figures on images, among the classes that they have.

    Args:
        title: what messages call the images.
        views: of each image, whose probabilities are averaged.
        processes: that share the images; each gets the figures of all of them.

    Raises:
        ConfigError: if the model has no classifier.
        DataError: if it does not know the images' classes.
    """
    if isinstance(model, ImageClassifier):
        model.check_classifies()
    config = getattr(model, "config", None)
    num_outputs = None if config is None else config.num_classes
    columns = find_columns(model.classes, num_outputs, images, title)
    measured = cast(nn.Module, model)
    size = getattr(model, "batch_size", None)  # of an exported file that takes no other
    if size is not None:
        measured = InWholeBatches(measured, size)
    if columns != list(range(num_outputs or len(model.classes or columns))):
        measured = AmongClasses(measured, columns)
    if views is not None:
        measured = OverViews(measured, views, has_several(images))
    how = (batch_size, workers)
    if processes is None:
        return Classification().evaluate(measured, EvalBatches(images, model.preprocess, *how))
    batches = EvalBatches(images, model.preprocess, *how, processes.share)
    return Classification().evaluate(measured, batches, processes.gather)
