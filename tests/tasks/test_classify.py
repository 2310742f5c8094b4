"""Classification metrics equal their definitions, however the images fall into batches."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leanformer.data import Batch
from leanformer.errors import ConfigError
from leanformer.tasks import Classification, Metrics, format_line


def some_batches(num_images=23, num_classes=7, sizes=(5, 11, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(num_images, 3, 2, 2, generator=generator)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    parts = zip(images.split(sizes), labels.split(sizes), torch.arange(num_images).split(sizes), strict=True)
    return images, labels, [Batch(images=i, labels=t, indices=n) for i, t, n in parts]


def linear_model(num_classes=7):
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, num_classes))


def test_metrics_equal_their_definitions_over_uneven_batches():
    images, labels, batches = some_batches()
    model = linear_model().train()
    metrics = Classification(label_smoothing=0.1).evaluate(model, batches)
    scores = model.eval()(images)
    order = scores.argsort(dim=1, descending=True)
    assert metrics.top1 == pytest.approx((order[:, 0] == labels).double().mean().item())
    assert metrics.top5 == pytest.approx((order[:, :5] == labels[:, None]).any(1).double().mean().item())
    assert metrics.loss == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-6)
    assert metrics.count == 23
    assert torch.equal(metrics.indices, torch.arange(23))
    assert torch.equal(metrics.predictions, order[:, 0])
    torch.testing.assert_close(metrics.probabilities, scores.softmax(1).max(1).values)


def test_the_split_into_batches_changes_no_figure():
    _, _, uneven = some_batches()
    _, _, whole = some_batches(sizes=(23,))
    task, model = Classification(), linear_model()
    first, second = task.evaluate(model, uneven), task.evaluate(model, whole)
    assert (first.top1, first.top5) == (second.top1, second.top5)
    assert first.loss == pytest.approx(second.loss, rel=1e-6)


def test_confusion_counts_rows_taken_for_columns():
    metrics = Classification().evaluate(linear_model(), some_batches()[2])
    confusion = metrics.confusion()
    assert confusion.sum() == 23
    assert confusion.diagonal().sum().item() == round(metrics.top1 * 23)
    label, prediction = metrics.labels[4], metrics.predictions[4]
    same = (metrics.labels == label) & (metrics.predictions == prediction)
    assert confusion[label, prediction] == same.sum()


def test_with_three_classes_every_image_is_in_the_top_five():
    metrics = Classification().evaluate(linear_model(3), some_batches(num_classes=3)[2])
    assert metrics.top5 == 1.0


def test_evaluation_leaves_a_training_model_in_training_mode():
    model = linear_model().train()
    Classification().evaluate(model, some_batches()[2])
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_smoothing_spreads_a_share_of_the_target_over_all_classes():
    images, labels, (batch,) = some_batches(sizes=(23,))
    model = linear_model().eval()
    loss = Classification(label_smoothing=0.2).losses(model, batch)["loss"]
    logs = model(images).log_softmax(1)
    expected = -(0.8 * logs.gather(1, labels[:, None]).squeeze(1) + 0.2 * logs.mean(1)).mean()
    torch.testing.assert_close(loss, expected)


def test_skipped_images_are_reported_and_count_for_nothing():
    _, _, (batch,) = some_batches(sizes=(23,))
    damaged = Batch(
        images=batch.images, labels=batch.labels, indices=batch.indices, skipped=(("a.jpg", "cannot be read"),)
    )
    metrics = Classification().evaluate(linear_model(), [damaged])
    assert metrics.skipped == (("a.jpg", "cannot be read"),)
    assert metrics.count == 23


def test_the_line_for_people_is_in_percent():
    nothing = torch.zeros(0, dtype=torch.int64)
    columns = {"indices": nothing, "labels": nothing, "predictions": nothing, "probabilities": nothing.float()}
    metrics = Metrics(top1=0.861, top5=0.993, loss=0.4121, count=1000, num_classes=10, **columns)
    assert format_line(metrics) == "* Acc@1 86.100 Acc@5 99.300 loss 0.412"


def test_smoothing_of_everything_is_refused():
    with pytest.raises(ConfigError, match=r"1\.0"):
        Classification(label_smoothing=1.0)
