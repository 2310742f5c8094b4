"""The page of a run: how it was trained, on what, what came out, and where the model errs."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from leanformer.checkpoints import files, runs
from leanformer.config import from_dict
from leanformer.data import EvalBatches, LabeledImages, TrainBatches, open_data
from leanformer.data.mixing import mix
from leanformer.edits.norm_sites import find_norms, is_affine
from leanformer.errors import ConfigError, DataError
from leanformer.models import ImageClassifier, Preprocess
from leanformer.tasks import Calibration, Classification, Metrics, MultiLabelMetrics, format_line, measure_calibration
from leanformer.training import TrainConfig
from leanformer.viz import html, sections
from leanformer.viz.predictions import Prediction

PAGE = "report.html"
NUM_SAMPLES = 16
NUM_MISTAKES = 24
LISTED_SKIPPED = 50
VERSIONS = ("leanformer", "torch", "torchvision", "timm", "numpy", "pillow")
BLEND_NOTE = (
    "While norms are blended (the share above 0), validation uses RepBN alone, whatever the share: its figures are "
    "poor until the blend is over, and say nothing of the model being trained."
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image as training varies it."""

    image: np.ndarray
    """(H, W, 3), bytes."""
    label: str


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """All that the page of a run shows, as plain data; a part without data is left out."""

    title: str
    summary: str
    metrics: Sequence[Mapping[str, Any]] = ()
    """Rows of `metrics.jsonl`."""
    samples: Sequence[Sample] = ()
    classes: Sequence[str] = ()
    confusion: Sequence[Sequence[int]] = ()
    accuracy: float = 0.0
    calibration: Calibration | None = None
    mistakes: Sequence[Prediction] = ()
    skipped: Mapping[str, str] | None = None
    """Name and error of images that could not be read."""
    config: Sequence[tuple[str, str]] = ()
    versions: Sequence[tuple[str, str]] = ()
    next_commands: Sequence[str] = ()


def write_run_page(
    run: str | Path, evaluation: Metrics | MultiLabelMetrics | None = None, *, batch_size: int = 64
) -> Path:
    """Write `report.html` into the directory of a run, finished or not; the path is given back.

    Args:
        run: what `fit` or `leanformer train` wrote; its data must still be where the config says.
        evaluation: of the finished model; without one it is evaluated here.
    """
    path = Path(run) / PAGE
    files.write_text(path, render_run_page(gather_run_page(run, evaluation, batch_size=batch_size)))
    return path


def gather_run_page(
    run: str | Path, evaluation: Metrics | MultiLabelMetrics | None = None, *, batch_size: int = 64
) -> RunPage:
    """Read everything that the page of `run` shows.

    Raises:
        ConfigError: if the directory holds no run.
        DataError: if its data is no longer there.
    """
    out = Path(run)
    if not (out / "config.json").is_file():
        raise ConfigError(f"{out} holds no training run: there is no config.json; give the --out of a training")
    record = files.read_json(out / "config.json")
    config = from_dict(record, TrainConfig)
    train, val = (open_data(config.data, side, config.data_options) for side in ("train", "val"))
    finished = (out / runs.RECORD).is_file()
    model = runs.load(out) if finished else None
    skipped: dict[str, str] = runs.read_record(out)["extra"]["training"]["skipped"] if finished else {}
    if model is not None and evaluation is None:
        evaluation = Classification().evaluate(model, EvalBatches(val, model.preprocess, batch_size))
    rows = _rows(out)
    single = evaluation if isinstance(evaluation, Metrics) else None  # of images of one class each
    return RunPage(
        title=f"{config.model.name or out.name} on {Path(config.data).name}",
        summary=_summary(evaluation, rows, config),
        metrics=rows,
        samples=_samples(train, config, model),
        classes=val.classes,
        confusion=single.confusion().tolist() if single else (),
        accuracy=single.top1 if single else 0.0,
        calibration=measure_calibration(single) if single else None,
        mistakes=list(_mistakes(single, val)) if single else (),
        skipped=skipped,
        config=list(_flat(record)),
        versions=_versions(),
        next_commands=() if model is None else _next_commands(out, model),
    )


def render_run_page(page: RunPage) -> str:
    """The page as HTML text."""
    blended = any(row.get("norm_progress") for row in page.metrics)
    parts = [
        sections.curves(page.metrics, BLEND_NOTE if blended else "", extra=True),
        _sample_sheet(page.samples),
        sections.classes(page.confusion, page.classes),
        sections.calibration(page.calibration, page.accuracy),
        sections.sheet("Mistakes", "The mistakes that the model was surest of.", page.mistakes),
        _skipped(page.skipped or {}),
        sections.facts("Configuration", "config.json of the run", page.config),
        sections.facts("Versions", "Installed when this page was written", page.versions),
        html.section("Next", html.commands(page.next_commands)),
    ]
    return html.page(page.title, page.summary, parts)


def _rows(out: Path) -> list[dict[str, Any]]:
    """The whole lines of `metrics.jsonl`; the last of a run in progress may be half written."""
    rows = []
    path = out / "metrics.jsonl"
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict) and "step" in row]


def _summary(
    evaluation: Metrics | MultiLabelMetrics | None, rows: Sequence[Mapping[str, Any]], config: TrainConfig
) -> str:
    if evaluation is None:
        done = max((row["step"] for row in rows), default=0)
        return f"The run is not finished: {done} steps are done of {config.epochs} epochs."
    images = f"{evaluation.count:,} images of {evaluation.num_classes} classes"
    score = f"{100 * evaluation.score:.2f} % {evaluation.score_name}"
    epochs = max((int(row["epoch"]) for row in rows if row.get("event") == "epoch"), default=config.epochs)
    early = f" of {config.epochs}, where training stopped" if epochs < config.epochs else ""
    return f"{score} on {images} after epoch {epochs}{early}. {format_line(evaluation)}"


def _samples(train: LabeledImages, config: TrainConfig, model: ImageClassifier | None) -> list[Sample]:
    """The first training images, varied as training does; a run in progress may not say yet how they are prepared."""
    preprocess = model.preprocess if model is not None else config.preprocess
    if preprocess is None:
        return []
    batches = TrainBatches(train, preprocess, config.augment, NUM_SAMPLES, config.seed, sampling=config.sampling)
    batch = next(iter(batches.batches(0)))
    images, labels = batch.images, batch.labels
    if config.mixing is not None and len(images) % 2 == 0:
        images, labels = mix(
            images,
            labels,
            config.mixing,
            num_classes=len(train.classes),
            smoothing=0.0,
            seed=config.seed,
            step=0,
        )
    pixels = _bytes_of(images, preprocess)
    return [
        Sample(image=image, label=_names(label, train.classes)) for image, label in zip(pixels, labels, strict=True)
    ]


def _names(label: Tensor, classes: Sequence[str]) -> str:
    """The class of a label, or the classes of a target for each class, with their shares in a mixed image."""
    if label.ndim == 0:
        return str(classes[int(label)])
    order = label.argsort(descending=True, stable=True).tolist()
    shares = {str(classes[number]): float(label[number]) for number in order if label[number] > 0}
    return ", ".join(name if share == 1 else f"{name} {share:.0%}" for name, share in shares.items())


def _bytes_of(images: Tensor, preprocess: Preprocess) -> np.ndarray:
    """The (B, H, W, 3) bytes of normalized (B, 3, H, W) images; what an erased rectangle exceeds is cut off."""
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return ((images * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _mistakes(evaluation: Metrics, val: LabeledImages) -> Iterator[Prediction]:
    """The mistakes with the highest probabilities, surest first."""
    wrong = (evaluation.predictions != evaluation.labels).nonzero()[:, 0]
    order = evaluation.probabilities[wrong].argsort(descending=True, stable=True)
    for place in wrong[order][:NUM_MISTAKES].tolist():
        try:
            image = np.asarray(val.image(int(evaluation.indices[place])))
        except DataError:
            continue  # it was readable when it was measured; the page does without it
        yield Prediction(
            image=image,
            true=val.classes[int(evaluation.labels[place])],
            predicted=val.classes[int(evaluation.predictions[place])],
            probability=float(evaluation.probabilities[place]),
        )


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of a JSON value with its path."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}[{index}]")
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def _versions() -> list[tuple[str, str]]:
    found = [("python", platform.python_version())]
    for name in VERSIONS:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def _next_commands(out: Path, model: ImageClassifier) -> list[str]:
    run, folded, exported = (shlex.quote(str(path)) for path in (out, f"{out}-folded", out / "model.onnx"))
    folds = any(is_affine(found.norm) for found in find_norms(model))
    return [
        f"leanformer evaluate {run} --data FOLDER --calibration",
        *([f"leanformer compress {run} --edit fold_norms --out {folded}"] if folds else []),
        f"leanformer export {run} --out {exported}",
    ]


def _sample_sheet(samples: Sequence[Sample]) -> str:
    figures = [html.picture(item.image, alt=item.label, caption=html.text(item.label)) for item in samples]
    note = html.paragraph("The first training images of the first epoch, varied as for the model.", css="soft")
    return html.section("Training images", note, html.sheet(figures)) if figures else ""


def _skipped(skipped: Mapping[str, str]) -> str:
    if not skipped:
        return ""
    more = len(skipped) - LISTED_SKIPPED
    rest = html.paragraph(f"and {more:,} more, in model.json", css="soft") if more > 0 else ""
    table = html.pairs(f"{len(skipped):,} images could not be read", list(skipped.items())[:LISTED_SKIPPED])
    return html.section("Skipped images", table, rest)
