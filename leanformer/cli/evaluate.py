"""`leanformer evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from leanformer.cli.common import evaluate_on, open_model, optional, print_json, report_skipped


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a model's accuracy on the validation images of a data set."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, an exported .onnx file, or the name of a model with published weights or `--weights`."""
    data: str
    """A folder of images, or `garments`."""
    weights: Annotated[Path | None, optional("PATH", "none")] = None
    """A published weight file for a model's name."""
    batch_size: int = 64
    """Images in one forward pass."""
    workers: int = 0
    """Processes that read images."""
    json: bool = False
    """Print JSON, with the confusion matrix."""

    def run(self) -> int:
        """Print the line of figures."""
        model = open_model(self.model, self.weights)
        metrics = evaluate_on(model, self.data, self.batch_size, self.workers)
        report_skipped(metrics.skipped)
        if self.json:
            classes = list(model.classes) if model.classes else None
            print_json({**metrics.summary(), "classes": classes, "confusion": metrics.confusion().tolist()})
            return 0
        from leanformer.tasks import format_line

        print(format_line(metrics))
        return 0
