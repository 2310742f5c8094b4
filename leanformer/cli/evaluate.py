"""`leanformer evaluate`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from leanformer.cli.common import open_model, optional, options_of, print_json, report_skipped

if TYPE_CHECKING:
    from leanformer.data import LabeledImages
    from leanformer.export import ExportedClassifier
    from leanformer.models import ImageClassifier
    from leanformer.tasks import Metrics, MultiLabelMetrics
    from leanformer.tasks.matching import RealLabels
    from leanformer.tasks.multi_label import ClassScores
    from leanformer.tasks.per_class import ClassFigures
    from leanformer.training.distributed import Ranks


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a model's accuracy on the images of a data set.

    The data may have some of the model's classes alone, which are then the only answers (ImageNet-A, -R); a model
    without class names is matched to ImageNet by folders called n01440764 or 0 to 999 (ImageNet-V2). Images of several
    classes are measured by mean average precision and F1. Processes that torchrun starts share the images.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, an exported file, or the name of a model with published weights or `--weights`."""
    data: str
    """A folder of images, a list, an archive or shards of them, or `garments`."""
    split: Literal["val", "train", "all"] = "val"
    """Which images: `all` for a test set whose folders are not divided."""
    real: Annotated[str | None, optional("{timm,PATH}", "none")] = None
    """Also count a prediction as right if it is among the ReaL labels of its image (https://arxiv.org/abs/2006.07159):
    those that come with timm, or a JSON file of them. Images without any are left out of that
    figure."""
    views: Annotated[Literal["flip", "five", "ten"] | None, optional("{flip,five,ten}", "none")] = None
    """Average the probabilities over views of each image: it and its mirror image; it and its four corners; both."""
    weights: Annotated[Path | None, optional("PATH", "none")] = None
    """A published weight file for a model's name."""
    batch_size: int = 64
    """Images in one forward pass."""
    workers: int = 0
    """Processes that read images."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to evaluate; an exported file runs on the CPU."""
    per_class: bool = False
    """Also the accuracy and precision of each class, the least accurate first."""
    calibration: bool = False
    """Also how far the probabilities can be trusted."""
    confusion: Annotated[Path | None, optional("PATH", "none")] = None
    """Write the confusion matrix as CSV: a row for each true class, a column for each predicted one."""
    json: bool = False
    """Print JSON, with the confusion matrix."""

    def run(self) -> int:
        """Print the figures."""
        from leanformer.tasks import MultiLabelMetrics
        from leanformer.training.distributed import join_ranks

        with join_ranks() as ranks:
            model = ranks.together(lambda: open_model(self.model, self.weights))
            images = ranks.together(lambda: self._images(model))
            real = ranks.together(lambda: self._real(images))
            metrics = self._measure(model, images, ranks)
        if not ranks.is_first:
            return 0
        report_skipped(metrics.skipped)
        if isinstance(metrics, MultiLabelMetrics):
            self._show_several(metrics, images.classes)
        else:
            self._show(metrics, images.classes, {} if real is None else {"real_top1": real.share(metrics)})
        return 0

    def _measure(
        self, model: ImageClassifier | ExportedClassifier, images: LabeledImages, ranks: Ranks
    ) -> Metrics | MultiLabelMetrics:
        from leanformer.data.views import NAMED
        from leanformer.tasks import evaluate_images
        from leanformer.training.randomness import choose_device

        model = model.to(choose_device(self.device))
        views = None if self.views is None else NAMED[self.views]
        return evaluate_images(model, images, self.data, self.batch_size, self.workers, views, ranks)

    def _images(self, model: ImageClassifier | ExportedClassifier) -> LabeledImages:
        from leanformer.data import open_data
        from leanformer.data.joined import JoinedImages

        options = options_of(self.model, model, self.data)
        sides = ("train", "val") if self.split == "all" else (self.split,)
        opened = [open_data(self.data, side, options) for side in sides]
        images = JoinedImages(*opened) if self.split == "all" else opened[0]
        self._check_fits(images)
        return images

    def _check_fits(self, images: LabeledImages) -> None:
        """Refuse to measure of images of several classes what only those of one have."""
        from leanformer.data.labeled import has_several
        from leanformer.errors import ConfigError

        asked = [name for name in ("real", "calibration", "confusion") if getattr(self, name)]
        if asked and has_several(images):
            raise ConfigError(
                f"{self.data} has images of several classes, for which --{asked[0]} says nothing; leave it out"
            )

    def _show_several(self, metrics: MultiLabelMetrics, classes: Sequence[str]) -> None:
        from leanformer.tasks import format_line
        from leanformer.tasks.multi_label import measure_class_scores

        if self.json:
            record: dict[str, Any] = {**metrics.summary(), "classes": list(classes)}
            if self.per_class:
                record["per_class"] = _of_classes(measure_class_scores(metrics), classes)
            print_json(record)
            return
        if self.per_class:
            print("\n".join(_lines_of_several(metrics, classes)))
        print(format_line(metrics))

    def _show(self, metrics: Metrics, classes: Sequence[str], real: dict[str, float]) -> None:
        if self.confusion is not None:
            _write_confusion(self.confusion, metrics, classes)
        if self.json:
            print_json(self._record(metrics, classes) | real)
            return
        self._print(metrics, classes)
        for share in real.values():
            print(f"* ReaL Acc@1 {100 * share:.3f}")

    def _real(self, images: LabeledImages) -> RealLabels | None:
        """The labels of ReaL, if they are asked for: found before anything is measured, or not at all."""
        from leanformer.tasks.matching import RealLabels

        if self.real is None:
            return None
        return RealLabels.of(images, None if self.real == "timm" else Path(self.real))

    def _record(self, metrics: Metrics, classes: Sequence[str]) -> dict[str, Any]:
        from leanformer.tasks import measure_calibration
        from leanformer.tasks.per_class import measure_classes

        record: dict[str, Any] = {
            **metrics.summary(), "classes": list(classes), "confusion": metrics.confusion().tolist(),
        }  # fmt: skip
        if self.calibration:
            record["calibration"] = measure_calibration(metrics).summary()
        if self.per_class:
            record["per_class"] = _of_classes(measure_classes(metrics), classes)
        return record

    def _print(self, metrics: Metrics, classes: Sequence[str]) -> None:
        from leanformer.tasks import format_line, measure_calibration

        if self.per_class:
            print("\n".join(_class_lines(metrics, classes)))
        if self.calibration:
            found = measure_calibration(metrics)
            brier = "" if found.brier is None else f"  Brier {found.brier:.4f}"
            confidence = f"mean confidence {100 * found.confidence:.2f} %"
            print(f"ECE {100 * found.ece:.2f} %  NLL {found.nll:.4f}{brier}  {confidence}")
        print(format_line(metrics))
        if self.confusion is not None:
            print(f"wrote {self.confusion}")


def _class_lines(metrics: Metrics, classes: Sequence[str]) -> list[str]:
    from leanformer.tasks.per_class import measure_classes

    width = max(5, *map(len, classes))
    lines = [f"{'class':{width}}  accuracy  precision  images  most often taken for"]
    for item in measure_classes(metrics):
        other = "-" if item.mistaken_for is None else classes[item.mistaken_for]
        shares = f"{_percent(item.accuracy):>8}  {_percent(item.precision):>9}"
        lines.append(f"{classes[item.label]:{width}}  {shares}  {item.count:6d}  {other}")
    return lines


def _lines_of_several(metrics: MultiLabelMetrics, classes: Sequence[str]) -> list[str]:
    from leanformer.tasks.multi_label import measure_class_scores

    width = max(5, *map(len, classes))
    lines = [f"{'class':{width}}  average precision       F1  images"]
    for item in measure_class_scores(metrics):
        shares = f"{_percent(item.average_precision):>17}  {_percent(item.f1):>7}"
        lines.append(f"{classes[item.label]:{width}}  {shares}  {item.count:6d}")
    return lines


def _of_classes(figures: Sequence[ClassFigures | ClassScores], classes: Sequence[str]) -> list[dict[str, Any]]:
    return [{"class": classes[item.label], **asdict(item)} for item in figures]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _write_confusion(path: Path, metrics: Metrics, classes: Sequence[str]) -> None:
    from leanformer.checkpoints.files import write_text

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true class", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, metrics.confusion().tolist(), strict=True))
    write_text(path, text.getvalue())
