"""`leanformer demo`: the whole way in minutes, on real images, with every promise checked at the end."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from leanformer.cli.common import optional, quoted

if TYPE_CHECKING:
    from leanformer.bench import Row, Runner
    from leanformer.export import ExportedClassifier
    from leanformer.models import ImageClassifier
    from leanformer.tasks import Metrics
    from leanformer.viz import Prediction, Step

RECIPE = "slab_swin_nano_garments"
LEAST_TOP1 = 0.86
LARGEST_DIFF = 1e-4


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train a small SLAB model on embedded images, fold its norms, export it, measure all three and write a report.

    Run again, it goes on from where it was stopped, and reuses a finished training.
    """

    out: Path = Path("runs/demo")
    """Directory of everything it writes."""
    epochs: Annotated[int | None, optional("N", "the recipe's")] = None
    """Passes over the training images; fewer are quicker and miss the accuracy that is checked."""
    repeats: int = 100
    """Rounds of the latency measurement."""

    def run(self) -> int:
        """Print each step, and at the end one line with the figures; 1 if a promise is broken."""
        from leanformer import api, edits
        from leanformer.errors import ConfigError
        from leanformer.export import OnnxClassifier, export_model
        from leanformer.recipes import find_recipe
        from leanformer.training import fit

        started = time.perf_counter()
        if self.repeats < 1:
            raise ConfigError(f"--repeats must be at least 1, got {self.repeats}")
        config = find_recipe(RECIPE, self.out)
        if self.epochs is not None:
            config = replace(config, epochs=self.epochs)
        print(f"1/5 train {config.model.name} on {config.data}: {config.epochs} epochs")
        result = fit(config, resume=(self.out / "config.json").exists(), resume_command=self._command())
        model = result.model.cpu()  # all that follows is compared and timed on the device of the exported file
        trained = _evaluate(model)

        print("2/5 fold the norms into their neighbours")
        folded = api.load(self.out)
        report = edits.apply(folded, edits.FoldNorms())[0]
        print("\n".join(f"    {line}" for line in report.lines))
        after_folding = _evaluate(folded)
        diff = _largest_difference(model, folded)
        api.save(folded, self.out / "folded")

        print("3/5 export to ONNX and compare")
        file = self.out / "folded" / "model.onnx"
        exported = export_model(folded, file, image_size=folded.config.image_size)
        print("\n".join(f"    {line}" for line in exported.lines()))
        runtime = OnnxClassifier(file)
        after_export = _evaluate(runtime)
        diffs = [None, diff, _largest_difference(model, runtime)]

        print("4/5 measure: trained, folded and exported model in turns, one process")
        rows, method = self._measure(model, folded, file)

        print("5/5 write the report")
        changed = int((trained.predictions != after_folding.predictions).sum())
        notes = {"folded": f"changes {changed} of {trained.count} predictions, the scores by at most {diff:.1e}"}
        steps = _steps(rows, [trained, after_folding, after_export], diffs, notes)
        page = self._report(model, trained, steps, method.rows())
        figures = {
            "top1": trained.top1, "folded_max_diff": diff, "folded_changed_predictions": changed,
            "folded_top1": after_folding.top1, "onnx_top1": after_export.top1, "onnx_norms": exported.graph.num_norms,
        }  # fmt: skip
        print(f"\nnext: leanformer predict {quoted(self.out)} IMAGE")
        print("or:   leanformer train slab_swin_nano --data FOLDER --out runs/mine")
        return _verdict(figures, result.seconds, time.perf_counter() - started, page)

    def _command(self) -> str:
        """What to type for this run again."""
        epochs = [] if self.epochs is None else ["--epochs", str(self.epochs)]
        return shlex.join(["leanformer", "demo", "--out", str(self.out), *epochs])

    def _measure(self, model: ImageClassifier, folded: ImageClassifier, file: Path):  # noqa: ANN202
        from leanformer import bench
        from leanformer.checkpoints import runs
        from leanformer.export import OnnxClassifier

        threads = 1  # no thread waits for another, so the policy that training wants does not slow eager down
        runners: list[Runner] = [
            bench.eager_runner("trained", model),
            bench.eager_runner("folded", folded, same_as="trained"),
            bench.Runner(name="onnx", call=OnnxClassifier(file, threads=threads), threads=threads, same_as="folded"),
        ]
        size = model.config.image_size
        compared = bench.compare(
            runners, batch_size=1, image_size=size, repeats=self.repeats, warmup=10, threads=threads
        )
        costs = [bench.count_cost(model, size), bench.count_cost(folded, size), None]
        files = [runs.weights_path(self.out), runs.weights_path(self.out / "folded"), file]
        rows = [
            bench.Row(timing=timing, cost=cost, size_bytes=path.stat().st_size, agreement=agreement)
            for timing, cost, path, agreement in zip(
                compared.timings, costs, files, (None, *compared.agreements), strict=True
            )
        ]
        print("\n".join(f"    {line}" for line in [*bench.format_text(rows).splitlines(), *compared.disturbances]))
        return rows, bench.record_method(
            batch_size=1, image_size=size, warmup=10, repeats=self.repeats, threads=threads
        )

    def _report(
        self, model: ImageClassifier, trained: Metrics, steps: list[Step], method: list[tuple[str, str]]
    ) -> Path:
        from leanformer.viz import Report, write_report

        lines = (self.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert model.classes is not None
        best = min(steps, key=lambda step: step.median_ms or float("inf"))
        report = Report(
            title="leanformer demo: a SLAB model on garments",
            summary=(
                f"{100 * trained.top1:.1f} % top-1 on {trained.count} test images after training; folding the norms "
                f"{steps[1].note}. Fastest here: {best.name}, {best.median_ms:.2f} ms for one image."
            ),
            metrics=[json.loads(line) for line in lines],
            training_note=(
                "In the first half of training the norms are blended from LayerNorm to RepBN. Validation uses RepBN "
                "alone from the start, so it is poor until the blend is over."
            ),
            steps=steps,
            predictions=_predictions(trained, model.classes),
            classes=model.classes,
            confusion=trained.confusion().tolist(),
            method=method,
            reproduce=(self._command(),),
        )
        return write_report(self.out / "demo.html", report)


def _evaluate(model) -> Metrics:  # noqa: ANN001
    from leanformer.cli.common import evaluate_on
    from leanformer.tasks import format_line

    metrics = evaluate_on(model, "garments", 200)
    print(f"    {format_line(metrics)}")
    return metrics


def _largest_difference(model: ImageClassifier, other: ImageClassifier | ExportedClassifier) -> float:
    """Largest difference of any score on any test image."""
    import torch

    from leanformer.data import EvalBatches, open_data

    with torch.inference_mode():
        batches = EvalBatches(open_data("garments", "val"), model.preprocess, 200)
        return max((model(batch.images) - other(batch.images)).abs().max().item() for batch in batches)


def _steps(rows: list[Row], metrics: list[Metrics], diffs: list[float | None], notes: dict[str, str]) -> list[Step]:
    from leanformer.viz import Step

    steps = []
    for row, measured, diff in zip(rows, metrics, diffs, strict=True):
        timing, cost = row.timing, row.cost
        steps.append(
            Step(
                name=timing.name,
                accuracy=measured.top1,
                median_ms=timing.median_ms,
                p10_ms=timing.p10_ms,
                p90_ms=timing.p90_ms,
                speedup=timing.speedup,
                parameters=cost.parameters if cost else None,
                macs=cost.macs if cost else None,
                size_bytes=row.size_bytes,
                max_diff=diff,
                note=timing.note or notes.get(timing.name, ""),
            )
        )
    return steps


def _predictions(metrics: Metrics, classes: tuple[str, ...]) -> list[Prediction]:
    import numpy as np

    from leanformer.data import open_data
    from leanformer.viz import Prediction, choose_predictions

    images = open_data("garments", "val")
    labels, predicted = metrics.labels.tolist(), metrics.predictions.tolist()
    probabilities = metrics.probabilities.tolist()
    return [
        Prediction(
            image=np.asarray(images.image(int(metrics.indices[i]))),
            true=classes[labels[i]],
            predicted=classes[predicted[i]],
            probability=probabilities[i],
        )
        for i in choose_predictions(labels, predicted, probabilities, count=24)
    ]


def _verdict(figures: dict[str, float], training_seconds: float, seconds: float, page: Path) -> int:
    """Print the last line; 1 if a promise is broken."""
    broken = []
    if figures["top1"] < LEAST_TOP1:
        broken.append(f"top-1 {figures['top1']:.4f} is below {LEAST_TOP1}")
    if not figures["folded_max_diff"] <= LARGEST_DIFF:  # nor is a NaN
        broken.append(f"folding changed a score by {figures['folded_max_diff']:.1e}, more than {LARGEST_DIFF:.0e}")
    if figures["folded_changed_predictions"]:
        broken.append(f"folding changed {figures['folded_changed_predictions']} predictions")
    if figures["onnx_top1"] != figures["folded_top1"] or figures["onnx_norms"]:
        broken.append("the exported file has norms left or another accuracy")
    line = (
        f"top1={figures['top1']:.3f} folded_max_diff={figures['folded_max_diff']:.1e} "
        f"onnx_top1={figures['onnx_top1']:.3f} seconds={seconds:.0f} report={page}"
    )
    print(f"training took {training_seconds:.0f} s")
    print(f"demo failed: {'; '.join(broken)}; {line}" if broken else f"demo ok: {line}")
    return int(bool(broken))
