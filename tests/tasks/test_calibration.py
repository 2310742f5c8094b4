"""Calibration figures equal their definitions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leanformer.data import Batch
from leanformer.tasks import Classification, Metrics
from leanformer.tasks.calibration import measure_calibration


def metrics_of(probabilities: list[float], right: list[bool], loss: float = 0.0) -> Metrics:
    labels = torch.zeros(len(right), dtype=torch.int64)
    return Metrics(
        top1=sum(right) / len(right), top5=1.0, loss=loss, count=len(right), num_classes=2, indices=labels,
        labels=labels, predictions=torch.tensor([0 if r else 1 for r in right]),
        probabilities=torch.tensor(probabilities),
    )  # fmt: skip


def test_a_model_that_is_right_as_often_as_it_says_has_no_error():
    found = measure_calibration(metrics_of([0.75] * 4, [True, True, True, False]))
    assert found.ece == pytest.approx(0)
    assert found.confidence == 0.75


def test_the_error_is_the_gap_between_confidence_and_accuracy_over_the_images():
    found = measure_calibration(metrics_of([0.9, 0.9, 0.6, 0.6], [True, False, True, True], loss=0.5), num_bins=10)
    assert found.ece == pytest.approx((2 * 0.4 + 2 * 0.4) / 4, abs=1e-6)
    assert found.nll == 0.5
    assert sum(item.count for item in found.bins) == 4


def test_the_ends_of_the_scale_are_counted():
    found = measure_calibration(metrics_of([0.0, 1.0], [False, True]))
    assert (found.bins[0].count, found.bins[-1].count) == (1, 1)
    assert found.ece == 0


def test_the_brier_score_is_the_squared_distance_to_the_truth():
    images, labels = torch.randn(11, 3, 2, 2), torch.arange(11) % 5
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    parts = zip(images.split(4), labels.split(4), torch.arange(11).split(4), strict=True)
    metrics = Classification().evaluate(model, [Batch(images=i, labels=t, indices=n) for i, t, n in parts])
    expected = (model(images).softmax(1) - F.one_hot(labels, 5)).square().sum(1).mean().item()
    found = measure_calibration(metrics)
    assert found.brier == pytest.approx(expected, rel=1e-5)
    assert found.summary().keys() == {"ece", "confidence", "nll", "brier"}
