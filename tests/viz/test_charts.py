"""Charts are pictures of the data given, whatever its labels contain; chosen predictions are always the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from leanformer.viz import choose_predictions
from leanformer.viz.charts import Bar, Curve, bar_chart, confusion_chart, curve_of, line_chart, scaling_chart


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_curve_takes_the_rows_of_its_event_that_have_its_key():
    rows = [
        {"event": "step", "step": 1, "loss": 2.0},
        {"event": "step", "step": 2, "loss": float("nan")},
        {"event": "step", "step": 3, "loss": 1.0},
        {"event": "epoch", "step": 3, "loss": 1.5, "top1": 0.5},
        {"event": "epoch", "step": 6, "top1": None},
    ]
    assert curve_of(rows, "step", "loss", "training") == Curve(label="training", steps=(1.0, 3.0), values=(2.0, 1.0))
    assert curve_of(rows, "epoch", "top1", "top-1", 100.0) == Curve(label="top-1", steps=(3.0,), values=(50.0,))
    assert curve_of(rows, "step", "top1", "never") is None


@pytest.mark.parametrize("values", [(1.0,), (1.0, 1.0), (0.0, -3.0, 1e9)], ids=str)
def test_any_curve_can_be_drawn(values):
    curve = Curve(label="a", steps=tuple(map(float, range(len(values)))), values=values)
    assert pixels(line_chart([curve, curve], title="t", unit="%")).std() > 1.0


def test_curves_over_sizes_are_drawn_even_with_one_size_or_many_curves():
    one = Curve(label="a", steps=(49.0,), values=(0.2,))
    many = [Curve(label=str(i), steps=(49.0, 196.0, 784.0), values=(0.1, 0.4 + i, 9.0)) for i in range(9)]
    for curves in ([one], many):
        assert pixels(scaling_chart(curves, title="t", x="tokens", y="ms")).std() > 1.0


def test_early_peaks_do_not_press_a_curve_flat():
    def drawn(first: float) -> int:
        curve = Curve(
            label="a", steps=tuple(map(float, range(20))), values=(first, *(1.0 - 0.04 * i for i in range(19)))
        )
        blue = np.abs(pixels(line_chart([curve], title="")) - [0x00, 0x72, 0xB2]).sum(-1) < 30
        return np.flatnonzero(blue[:, blue.shape[1] // 2 :].any(1)).size

    assert drawn(30.0) > drawn(1.0) / 4


@pytest.mark.parametrize("label", ["$x^2$", "a$", "_hidden", "<b>", "naïve 日本", "l" * 200], ids=ascii)
def test_labels_are_drawn_as_they_are(label):
    curve = Curve(label=label, steps=(0.0, 1.0), values=(0.0, 1.0))
    line_chart([curve, curve], title="t", unit="%")
    bar_chart([Bar(label=label, value=1.0)], title="t", number=".1f")
    confusion_chart([[1]], [label])


def test_a_longer_bar_has_more_ink():
    short = pixels(bar_chart([Bar(label="a", value=10.0), Bar(label="b", value=1.0)], title="", number=".0f"))
    long = pixels(bar_chart([Bar(label="a", value=10.0), Bar(label="b", value=9.0)], title="", number=".0f"))
    colored = (
        (np.abs(short - [0x56, 0xB4, 0xE9]).sum(-1) < 30).sum(),
        (np.abs(long - [0x56, 0xB4, 0xE9]).sum(-1) < 30).sum(),
    )
    assert colored[1] > 1.5 * colored[0]


def test_bars_of_zero_and_bars_with_a_spread_can_be_drawn():
    bar_chart([Bar(label="a", value=0.0)], title="", number=".0f")
    bar_chart([Bar(label="a", value=2.0, low=1.0, high=30.0)], title="", number=".3g")


@pytest.mark.parametrize("count", [1, 2, 20, 21, 130])
def test_confusion_of_any_number_of_classes_can_be_drawn(count):
    confusion = np.eye(count, dtype=int) * 1000
    confusion[0, -1] += 3
    picture = pixels(confusion_chart(confusion.tolist(), [f"class number {i}" for i in range(count)]))
    assert picture.shape[0] < 2500 and picture.std() > 1.0


def test_a_class_without_images_does_not_break_the_confusion():
    confusion_chart([[0, 0], [1, 2]], ["a", "b"])


def test_half_are_right_spread_over_the_classes_and_half_the_surest_mistakes():
    labels = [0, 0, 0, 1, 1, 2, 2, 2]
    predicted = [0, 0, 1, 1, 0, 2, 0, 1]
    probabilities = [0.9, 0.8, 0.5, 0.4, 0.99, 0.7, 0.6, 0.95]
    assert choose_predictions(labels, predicted, probabilities, count=6) == [0, 3, 5, 4, 7, 6]


def test_right_ones_come_from_each_class_in_turn():
    assert choose_predictions([0, 0, 1, 1], [0, 0, 1, 1], [1.0] * 4, count=3) == [0, 2, 1]


def test_one_kind_fills_up_where_the_other_runs_out():
    assert choose_predictions([0, 0, 0], [1, 0, 0], [0.5] * 3, count=2) == [1, 0]
    assert choose_predictions([0, 0, 0], [1, 1, 1], [0.5, 0.7, 0.6], count=2) == [1, 2]
    assert choose_predictions([0, 0], [0, 0], [0.5, 0.7], count=9) == [0, 1]
    assert choose_predictions([], [], [], count=4) == []
