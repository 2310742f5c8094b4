"""A model and a data set that do not name the same classes: which output of the model is which class of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from leanformer.data import LabeledImages
from leanformer.data.imagenet import NUM_CLASSES, imagenet_numbers, real_labels
from leanformer.data.labeled import check_distinct, keys_of
from leanformer.data.views import Views, averaged
from leanformer.errors import DataError
from leanformer.tasks.classify import Metrics


class AmongClasses(nn.Module):
    """A classifier whose answer is one of the chosen classes: the scores of the others are left out."""

    def __init__(self, model: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.columns = torch.tensor(columns)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, len(columns))."""
        scores = self.model(images)
        return scores[:, self.columns.to(scores.device)]


class InWholeBatches(nn.Module):
    """A classifier that takes batches of one size alone, filled up with zeros for any other number of images."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K) for any B."""
        missing = -len(images) % self.size
        filled = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        return self.model(filled)[: len(images)]


class OverViews(nn.Module):
    """A classifier whose probabilities are the means over several views of an image."""

    def __init__(self, model: nn.Module, views: Views, independent: bool) -> None:
        super().__init__()
        self.model, self.views, self.independent = model, views, independent

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K)."""
        return averaged(self.model, images, self.views, self.independent)


def find_columns(
    outputs: Sequence[str] | None, num_outputs: int | None, images: LabeledImages, title: str
) -> list[int]:
    """For each class of the data the output of the model that stands for it.

    Classes are matched by name. A model without names has the classes of ImageNet if it has 1000 outputs: the data's
    are then found by their wnid (`n01440764`, as in ImageNet-A and -R) or number (as in -V2). Otherwise the data has to
    have as many classes as the model, in its order.

    Raises:
        DataError: if the model does not know a class, has two of one name, or the numbers of classes differ.
    """
    if outputs is not None:
        return _by_name(outputs, images.classes, title)
    keys = keys_of(images)
    numbers = imagenet_numbers(keys) if num_outputs in (None, NUM_CLASSES) else None
    if numbers is not None:
        return numbers
    if num_outputs not in (None, len(keys)):
        raise DataError(
            f"{title} has {len(keys)} classes and the model {num_outputs} outputs without names; name the folders of a "
            "model trained on ImageNet n01440764 and so on, or give the data set of its training"
        )
    return list(range(len(keys)))


def _by_name(outputs: Sequence[str], classes: Sequence[str], title: str) -> list[int]:
    check_distinct(outputs, [f"output {place}" for place in range(len(outputs))], "the model")
    places = {name: place for place, name in enumerate(outputs)}
    unknown = [name for name in classes if name not in places]
    if unknown:
        raise DataError(
            f"{title} has {len(classes)} classes, but not the {len(outputs)} classes that the model was trained on; "
            f"{unknown[0]!r} is none of the model's; give the data set of its training, or a part of its classes"
        )
    return [places[name] for name in classes]


@dataclass(frozen=True)
class RealLabels:
    """The ReaL labels (https://arxiv.org/abs/2006.07159) of validation images of ImageNet, or of a part of them."""

    numbers: list[int]
    """Of each class of the data among the 1000."""
    sets: list[list[int]]
    """The labels of each image, numbers among the 1000; some have none."""

    @classmethod
    def of(cls, images: LabeledImages, file: Path | None = None) -> RealLabels:
        """Those of these images, found by their names.

        Args:
            file: the labels, one list for each image in the order of the names; None: timm's copy.

        Raises:
            DataError: if the images are others, or their classes are none of ImageNet.
            CheckpointError: if the file cannot be read.
        """
        keys = keys_of(images)
        numbers = imagenet_numbers(keys)
        if numbers is None:
            other = next(key for key in keys if imagenet_numbers([key]) is None)
            raise DataError(
                f"ReaL labels are numbers of ImageNet's classes, and {other!r} is none of them; name the folders "
                "n01440764 and so on, or 0 to 999"
            )
        sets = real_labels(images, file)
        if not any(sets):
            raise DataError("none of the images has a ReaL label")
        return cls(numbers, sets)

    def share(self, metrics: Metrics) -> float:
        """The share of the predictions for these images that are among their labels, those without any left out."""
        found = zip(metrics.indices.tolist(), metrics.predictions.tolist(), strict=True)
        right = [self.numbers[best] in self.sets[index] for index, best in found if self.sets[index]]
        return sum(right) / max(len(right), 1)
