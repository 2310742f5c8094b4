"""`leanformer export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from leanformer.cli.common import open_trainable, optional, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from leanformer.export import Int8Report, NormalizingClassifier
    from leanformer.models import ImageClassifier, Preprocess

COMPARED = 64
"""Images of a data set that a file is compared on."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a model for another runtime, and compare the file with the model before calling it done."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or the name of a model with published weights or `--weights`."""
    out: Path
    """The file to write; the end of its name is its format: .onnx, .xml for OpenVINO, .pte for ExecuTorch,
    .mlpackage for Core ML, .aoti.pt2 for AOTInductor, .pt2 for torch.export."""
    weights: Annotated[Path | None, optional("PATH", "none")] = None
    """A published weight file for a model's name."""
    fixed_batch: bool = False
    """Fix the batch size at 1 instead of leaving it open; those of ExecuTorch and Core ML
    always do."""

    normalize_inside: bool = False
    """Put the normalisation of the images into the file: it then takes values from 0 to 1."""
    data: Annotated[str | None, optional("DATA", "none")] = None
    """Data set on 64 of whose validation images the file is compared with the model too."""
    int8: bool = False
    """Compute in int8 (OpenVINO): ranges come from training images of `--data`, the accuracy from all its validation
    images."""
    max_drop: float = 0.5
    """Points of accuracy that int8 may lose before layers stay in float."""
    calibration_images: int = 300
    """Training images that int8 takes its ranges from."""

    def run(self) -> int:
        """Print the report of the export."""
        from leanformer.export import NormalizingClassifier, export_model, format_for

        format = format_for(self.out)  # before a large model is opened
        model = open_trainable(self.model, self.weights)
        given = NormalizingClassifier(model) if self.normalize_inside else model
        shape = {"image_size": model.config.image_size, "dynamic_batch": not self.fixed_batch}
        if self.int8:
            report = self._int8(given, shape)
        else:
            report = export_model(given, self.out, images=self._images(given.preprocess), **shape)
        print("\n".join(report.lines()))
        print(f"license of the weights: {model.origin.get('license') or 'not recorded'}")
        out = quoted(self.out)
        if not format.not_run_here():
            print(f"next: leanformer predict {out} IMAGE, or leanformer bench {quoted(self.model)} {out}")
        return 0

    def _images(self, preprocess: Preprocess) -> Iterator[Tensor]:
        from leanformer.data import EvalBatches, open_data
        from leanformer.data.part import some_of

        if self.data is not None:
            some = some_of(open_data(self.data, "val"), COMPARED)
            for batch in EvalBatches(some, preprocess, 1 if self.fixed_batch else 16):
                yield batch.images

    def _int8(self, model: ImageClassifier | NormalizingClassifier, shape: dict[str, Any]) -> Int8Report:
        from leanformer.data import EvalBatches, open_data
        from leanformer.data.part import some_of
        from leanformer.errors import ConfigError
        from leanformer.export import Score, export_int8
        from leanformer.tasks import Metrics, evaluate_images

        if self.data is None:
            raise ConfigError("int8 needs images: add --data, from which ranges and accuracy are taken")
        if self.calibration_images < 1:
            raise ConfigError(f"--calibration-images must be at least 1, got {self.calibration_images}")
        data, val = self.data, open_data(self.data, "val")

        def score(classifier: Any) -> Score:
            metrics = evaluate_images(classifier, val, data, 1 if self.fixed_batch else 64, 0)
            if not isinstance(metrics, Metrics):
                raise ConfigError(f"{data} has images of several classes, whose accuracy int8 cannot be held to yet")
            return Score(metrics.score, (metrics.predictions == metrics.labels).float().tolist())

        some = some_of(open_data(data, "train"), self.calibration_images)
        batches = EvalBatches(some, model.preprocess, 1)
        return export_int8(
            model,
            self.out,
            calibration=(batch.images for batch in batches),
            score=score,
            max_drop=self.max_drop,
            **shape,
        )
