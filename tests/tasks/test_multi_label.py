"""Images of several classes: the figures equal their definitions, and the losses weigh classes as they say."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leanformer.data import Batch
from leanformer.data.views import NAMED, averaged, views_of
from leanformer.tasks import Classification, MultiLabelMetrics, format_line
from leanformer.tasks.multi_label import average_precision, measure_class_scores

NUM_CLASSES = 5


@pytest.fixture
def measured():
    """Scores and targets of 33 images, of which none has the last class, and their figures."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(33, NUM_CLASSES, generator=generator)
    labels = (torch.rand(33, NUM_CLASSES, generator=generator) < 0.4).float()
    labels[:, -1] = 0
    batches = [
        Batch(images=s.view(-1, NUM_CLASSES, 1, 1), labels=t, indices=n)
        for s, t, n in zip(scores.split(7), labels.split(7), torch.arange(33).split(7), strict=True)
    ]
    metrics = Classification().evaluate(nn.Flatten(), batches)
    assert isinstance(metrics, MultiLabelMetrics)
    return scores, labels, metrics


def precision_by_hand(scores, labels):
    """Mean over the positives of the share of positives among all that score at least as much."""
    shares = [labels[scores >= s].mean().item() for s, t in zip(scores, labels, strict=True) if t]
    return sum(shares) / len(shares)


def f1_by_hand(found, labels):
    right, precision_of, recall_of = (found & labels).sum().item(), found.sum().item(), labels.sum().item()
    return 2 * right / (precision_of + recall_of)


def test_the_figures_equal_their_definitions(measured):
    scores, labels, metrics = measured
    found, truth = scores >= 0, labels > 0
    precision = [precision_by_hand(scores[:, c], labels[:, c]) for c in range(4)]
    assert metrics.mean_average_precision == metrics.score == pytest.approx(sum(precision) / 4)
    assert metrics.micro_f1 == pytest.approx(f1_by_hand(found, truth))
    assert metrics.macro_f1 == pytest.approx(sum(f1_by_hand(found[:, c], truth[:, c]) for c in range(4)) / 4)
    right = sum(torch.equal(f, t) for f, t in zip(found, truth, strict=True))
    assert metrics.subset_accuracy == pytest.approx(right / 33)
    assert metrics.loss == pytest.approx(F.binary_cross_entropy_with_logits(scores, labels).item(), rel=1e-6)
    assert set(metrics.summary()) == {"mAP", "micro_f1", "macro_f1", "subset_accuracy", "loss", "count"}
    assert format_line(metrics).startswith(f"* mAP {100 * metrics.score:.3f} F1 micro ")


def test_classes_are_listed_from_the_least_precise_and_those_without_images_last(measured):
    figures = measure_class_scores(measured[2])
    assert [item.average_precision for item in figures[:-1]] == sorted(item.average_precision for item in figures[:-1])
    last = figures[-1]
    assert (last.label, last.count, last.average_precision, last.f1) == (NUM_CLASSES - 1, 0, None, None)


def test_images_of_equal_score_are_found_together():
    labels = torch.tensor([True, False, True, False, False])
    scores = torch.tensor([0.5, 0.5, 0.5, 0.2, 0.9])
    assert average_precision(scores, labels).item() == pytest.approx(2 / 4)
    assert average_precision(scores, labels.flip(0)).item() == pytest.approx(
        precision_by_hand(scores, labels.flip(0).float())
    )
    assert average_precision(torch.zeros(4), torch.ones(4, dtype=torch.bool)) == 1
    assert math.isnan(average_precision(scores, torch.zeros(5, dtype=torch.bool)))


def some_batch(labels):
    generator = torch.Generator().manual_seed(1)
    return Batch(
        images=torch.randn(len(labels), NUM_CLASSES, 1, 1, generator=generator),
        labels=labels,
        indices=torch.arange(len(labels)),
    )


WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_image_counts_what_its_class_weighs_whether_its_label_is_a_number_or_a_target(smoothing):
    hard = some_batch(torch.tensor([0, 2, 4, 2, 3]))
    task = Classification(smoothing, class_weights=WEIGHTS)
    each = F.cross_entropy(hard.images.flatten(1), hard.labels, reduction="none", label_smoothing=smoothing)
    loss = task.losses(nn.Flatten(), hard)["loss"]
    torch.testing.assert_close(loss, (each * WEIGHTS[hard.labels]).sum() / 5)
    soft = some_batch(F.one_hot(hard.labels, NUM_CLASSES).float())
    plain = Classification(class_weights=WEIGHTS)
    torch.testing.assert_close(plain.losses(nn.Flatten(), soft)["loss"], plain.losses(nn.Flatten(), hard)["loss"])


def test_a_binary_loss_weighs_that_a_class_is_there():
    batch = some_batch((torch.rand(5, NUM_CLASSES, generator=torch.Generator().manual_seed(2)) < 0.5).float())
    loss = Classification(loss="binary_cross_entropy", class_weights=WEIGHTS).losses(nn.Flatten(), batch)["loss"]
    scores = batch.images.flatten(1)
    there, absent = -F.logsigmoid(scores) * batch.labels, -F.logsigmoid(-scores) * (1 - batch.labels)
    torch.testing.assert_close(loss, (there * WEIGHTS + absent).mean())


@pytest.mark.parametrize("name", NAMED)
def test_views_of_several_classes_average_the_probability_of_each_class(name):
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 9, NUM_CLASSES)), torch.randn(3, 3, 8, 9)
    views = NAMED[name]
    scores = averaged(model, images, views, independent=True)
    expected = torch.stack([model(view).sigmoid() for view in views_of(images, views)]).mean(0)
    torch.testing.assert_close(scores.sigmoid(), expected)
    assert len(views_of(images, views)) == {"flip": 2, "five": 5, "ten": 10}[name]
