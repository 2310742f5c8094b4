"""Accuracy and precision of each class are those of the confusion matrix."""

import torch

from leanformer.tasks import Metrics
from leanformer.tasks.per_class import measure_classes


def test_the_least_accurate_class_comes_first_and_one_without_images_last():
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    predictions = torch.tensor([0, 0, 0, 1, 0, 1])
    metrics = Metrics(
        top1=4 / 6, top5=1.0, loss=0.0, count=6, num_classes=3, indices=torch.arange(6), labels=labels,
        predictions=predictions, probabilities=torch.ones(6),
    )  # fmt: skip
    first, second, third = measure_classes(metrics)
    assert (first.label, first.count, first.accuracy, first.precision, first.mistaken_for) == (1, 2, 0.5, 0.5, 0)
    assert (second.label, second.accuracy, second.precision) == (0, 0.75, 0.75)
    assert (third.label, third.count, third.accuracy, third.precision, third.mistaken_for) == (2, 0, None, None, None)
