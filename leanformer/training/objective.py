"""What a run minimizes: the loss that suits its data, and what each class counts in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from leanformer.data import LabeledImages, class_weights
from leanformer.data.labeled import has_several
from leanformer.data.sampling import subset
from leanformer.errors import ConfigError
from leanformer.tasks import Classification
from leanformer.tasks.distill import Teacher

if TYPE_CHECKING:
    from leanformer.training.config import TrainConfig


def build_task(
    config: TrainConfig, images: LabeledImages, teacher: Teacher | None, device: torch.device
) -> Classification:
    """The task of a run on these training images.

    Raises:
        ConfigError: for a loss or a teacher that the images cannot have, or weights of another number of classes.
    """
    several = has_several(images)
    if several and config.loss == "cross_entropy":
        raise ConfigError("loss 'cross_entropy' asks for one class, but images have several; leave loss at None")
    if several and config.distill is not None:
        raise ConfigError("a teacher is asked for one class, but images have several; leave out distill")
    loss = config.loss or ("binary_cross_entropy" if several else "cross_entropy")
    weights = _weights(config, images)
    return Classification(
        config.label_smoothing, loss, config.distill, teacher, None if weights is None else weights.to(device)
    )


def _weights(config: TrainConfig, images: LabeledImages) -> Tensor | None:
    given, num_classes = config.class_weights, len(images.classes)
    if given is None:
        return None
    if given == "balanced":
        return torch.from_numpy(class_weights(_seen_labels(config, images), num_classes))
    if len(given) != num_classes:
        raise ConfigError(f"class_weights must be one for each of the {num_classes} classes, got {len(given)}")
    return torch.tensor(given, dtype=torch.float32)


def _seen_labels(config: TrainConfig, images: LabeledImages) -> np.ndarray:
    """All labels of the images that training sees, those of one with several classes one after another."""
    seen = subset(images.labels, config.sampling.fraction)
    several = getattr(images, "several", None)
    if several is None:
        return images.labels[seen]
    return np.array([label for index in seen for label in several[int(index)]], np.int64)
