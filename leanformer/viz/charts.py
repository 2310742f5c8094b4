"""Charts as PNG bytes, drawn so that they can be read at the width of a phone and without telling colors apart.

Every series has its own line style and marker besides its color (the palette of Okabe and Ito), and every bar its
number.
"""

from __future__ import annotations

import io
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from leanformer.tasks import Calibration

STYLES = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#000000", "-", "v"),
    ("#E69F00", "--", "P"),
    ("#56B4E9", "-.", "X"),
    ("#666666", ":", "*"),
)
BAR = "#56B4E9"
WIDTH = 5.6
"""Inches; with 100 dots per inch the letters stay readable when a page shows the picture 350 pixels wide."""
DPI = 160
FONT_SIZE = 11
OTHER_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Malgun Gothic",
)
"""Fonts for labels that DejaVu Sans cannot write, used where they are installed."""
PEAK = 10.0
"""A largest value this many times the median makes an axis logarithmic."""
COUNTED_CLASSES = 20
"""Up to this many classes a confusion matrix shows its counts."""
DRAWN_CLASSES = 200
"""Of more classes, several share a cell of the confusion matrix: one alone would be smaller than a dot."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart."""

    label: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: a value, and the ends of its spread where it was measured more than once."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a scatter chart."""

    label: str
    """Written beside it; empty for none."""
    x: float
    y: float
    on_front: bool = False
    """Whether it lies on the line through those that no other beats."""


def curve_of(rows: Sequence[Mapping[str, Any]], event: str, key: str, label: str, scale: float = 1.0) -> Curve | None:
    """The curve of `key`, times `scale`, in the rows of a `metrics.jsonl` for one kind of event; None if it never
    occurs.

    Rows say `step`, the number of steps done; values that are not finite are left out.
    """
    found = [row for row in rows if row.get("event") == event and row.get(key) is not None]
    points = [(float(row["step"]), scale * float(row[key])) for row in found]
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return None
    steps, values = zip(*points, strict=True)
    return Curve(label=label, steps=steps, values=values)


def line_chart(curves: Sequence[Curve], *, title: str, unit: str = "") -> bytes:
    """A chart of curves over training, with a legend where there is more than one.

    The axis is logarithmic where a few values far above all others would press them into one line.
    """
    with _figure(WIDTH, 3.3) as (figure, axes):
        for index, curve in enumerate(curves):
            color, line, marker = STYLES[index % len(STYLES)]
            shown = marker if len(curve.steps) <= 40 else None
            axes.plot(
                curve.steps, curve.values, color=color, linestyle=line, marker=shown, markersize=4, label=curve.label
            )
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.margins(x=0.02)
        if _has_peaks([value for curve in curves for value in curve.values]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        if len(curves) > 1:
            axes.legend(axes.lines, [_shorten(curve.label, 24) for curve in curves], frameon=False)
        return _png(figure)


def scaling_chart(curves: Sequence[Curve], *, title: str, x: str, y: str) -> bytes:
    """Curves over sizes, all above zero, both axes logarithmic, the legend below."""
    from matplotlib.ticker import LogLocator, NullLocator

    with _figure(WIDTH, 3.6 + 0.25 * math.ceil(len(curves) / 2)) as (figure, axes):
        for index, curve in enumerate(curves):
            color, line, marker = STYLES[index % len(STYLES)]
            axes.plot(curve.steps, curve.values, color=color, linestyle=line, marker=marker, markersize=5)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(_spread([step for curve in curves for step in curve.steps]))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(color="#dddddd", linewidth=0.7)
        names = [_shorten(curve.label, 28) for curve in curves]
        figure.legend(axes.lines, names, frameon=False, loc="outside lower left", ncols=2, fontsize=FONT_SIZE - 1)
        return _png(figure)


def _spread(values: Sequence[float]) -> list[float]:
    """Some of the values, far enough from each other to be written below a logarithmic axis."""
    found: list[float] = []
    span = (max(values) / min(values)) ** (1 / 6) if values else 1.0
    for value in sorted(set(values)):
        if not found or value >= span * found[-1]:
            found.append(value)
    return found


def _has_peaks(values: Sequence[float]) -> bool:
    return min(values, default=0.0) > 0 and max(values) > PEAK * statistics.median(values)


def bar_chart(bars: Sequence[Bar], *, title: str, number: str, unit: str = "") -> bytes:
    """Horizontal bars from zero, each with its value in the format `number`, and whiskers for the spread."""
    with _figure(WIDTH, 1.1 + 0.5 * len(bars)) as (figure, axes):
        longest = max(bar.value if bar.high is None else max(bar.value, bar.high) for bar in bars)
        for row, bar in enumerate(bars):
            axes.barh(row, bar.value, color=BAR, edgecolor="#333333", linewidth=0.6, height=0.62)
            if bar.low is not None and bar.high is not None:
                axes.plot([bar.low, bar.high], [row, row], color="black", linewidth=1.4, marker="|", markersize=9)
            end = bar.value if bar.high is None else max(bar.value, bar.high)
            axes.text(end + 0.015 * longest, row, format(bar.value, number), va="center")
        axes.set_yticks(range(len(bars)), [_shorten(bar.label, 24) for bar in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.17 * longest or 1.0)
        axes.set_title(title, loc="left", fontweight="bold", x=0)
        axes.set_xlabel(unit)
        axes.tick_params(axis="y", length=0)
        return _png(figure)


def scatter_chart(points: Sequence[Point], *, title: str, x: str, y: str) -> bytes:
    """Points, and a line of steps through those on the front; labels stay inside the picture."""
    with _figure(WIDTH, 4.0) as (figure, axes):
        front = sorted((point for point in points if point.on_front), key=lambda point: point.x)
        others = [point for point in points if not point.on_front]
        axes.scatter([p.x for p in others], [p.y for p in others], color="#888888", marker="x", s=28, linewidths=1.2)
        color, line, marker = STYLES[0]
        axes.plot([p.x for p in front], [p.y for p in front], color=color, linestyle=line, marker=marker, markersize=6)
        axes.margins(x=0.12, y=0.12)
        middle = sum(axes.get_xlim()) / 2
        for point in points:
            if point.label:
                left = point.x < middle
                axes.annotate(
                    _shorten(point.label, 30), (point.x, point.y), xytext=(7 if left else -7, -12),
                    textcoords="offset points", ha="left" if left else "right", fontsize=FONT_SIZE - 2,
                )  # fmt: skip
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(color="#dddddd", linewidth=0.7)
        return _png(figure)


def reliability_chart(calibration: Calibration) -> bytes:
    """Accuracy by confidence, and the diagonal where both agree; darker bars hold more images."""
    with _figure(WIDTH, 4.2) as (figure, axes):
        most = max(item.count for item in calibration.bins) or 1
        for item in calibration.bins:
            if item.count:
                shade = 0.25 + 0.75 * item.count / most
                middle, width = (item.low + item.high) / 2, item.high - item.low
                axes.bar(middle, item.accuracy, width, color=BAR, alpha=shade, edgecolor="#333333", linewidth=0.6)
        points = [(item.confidence, item.accuracy) for item in calibration.bins if item.count]
        axes.plot([0, 1], [0, 1], color="#333333", linestyle="--", linewidth=1.2, label="confidence = accuracy")
        axes.plot(*zip(*points, strict=True), color=STYLES[1][0], linestyle="", marker="s", label="images of a bin")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_title(f"Reliability: ECE {100 * calibration.ece:.2f} %", loc="left", fontweight="bold")
        axes.set_xlabel("confidence of the prediction")
        axes.set_ylabel("accuracy")
        axes.legend(frameon=False, loc="upper left")
        return _png(figure)


def confusion_chart(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> bytes:
    """Rows are true classes, columns predicted ones; shades are shares of the row, and few classes also show counts.

    Of very many classes, a cell shows the largest share among neighboring classes.
    """
    from matplotlib.colors import PowerNorm

    count = len(classes)
    shares = _pooled([[value / max(1, sum(row)) for value in row] for row in confusion])
    counted = count <= COUNTED_CLASSES
    width = confusion_width(count)
    with _figure(width, width - (0.4 if counted else 1.2)) as (figure, axes):
        image = axes.imshow(
            shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0.0, vmax=1.0), interpolation="nearest"
        )  # few mistakes are visible too
        places = range(0, len(shares), 1 if counted else math.ceil(len(shares) / 40))
        names = [_shorten(classes[place * math.ceil(count / DRAWN_CLASSES)], 16) for place in places]
        size = FONT_SIZE - 1 if counted else 8
        axes.set_xticks(
            places,
            names,
            rotation=45 if counted else 90,
            ha="right",
            va="center" if not counted else "top",
            rotation_mode="anchor",
            fontsize=size,
        )
        axes.set_yticks(places, names, fontsize=size)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.tick_params(length=0)
        if counted:
            _write_counts(axes, confusion, shares)
        else:
            figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class", ticks=[0, 0.1, 0.25, 0.5, 1])
        return _png(figure)


def _pooled(shares: list[list[float]]) -> list[list[float]]:
    """At most `DRAWN_CLASSES` rows and columns: the largest of each square of cells."""
    size = math.ceil(len(shares) / DRAWN_CLASSES)
    starts = range(0, len(shares), size)
    rows = [[max(column) for column in zip(*shares[i : i + size], strict=True)] for i in starts]
    return [[max(row[j : j + size]) for j in starts] for row in rows]


def confusion_width(num_classes: int) -> float:
    """Width of a confusion matrix in inches."""
    return 1.0 + max(4.6, 0.46 * num_classes) if num_classes <= COUNTED_CLASSES else 8.5


def _write_counts(axes: Axes, confusion: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> None:
    digits = max(len(str(value)) for row in confusion for value in row)
    size = min(FONT_SIZE - 1, 38 / digits)
    for row, values in enumerate(confusion):
        for column, value in enumerate(values):
            color = "white" if shares[row][column] > 0.35 else "black" if value else "#999999"
            axes.text(column, row, str(value), ha="center", va="center", fontsize=size, color=color)


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    style: dict[Any, Any] = {
        "font.size": FONT_SIZE,
        "font.family": ["DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in installed)],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box; tables have the name
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _shorten(text: str, length: int) -> str:
    """Leave out the middle: the ends of names tell them apart."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"
