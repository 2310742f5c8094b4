"""`leanformer export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from leanformer.cli.common import open_trainable, optional, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from leanformer.models import Preprocess

COMPARED = 64
"""Images of a data set that a file is compared on."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a model for another runtime, and compare the file with the model before calling it done."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or the name of a model with published weights or `--weights`."""
    out: Path
    """The file to write; the end of its name is its format: .onnx, or .xml for OpenVINO."""
    weights: Annotated[Path | None, optional("PATH", "none")] = None
    """A published weight file for a model's name."""
    fixed_batch: bool = False
    """Fix the batch size at 1 instead of leaving it open."""

    normalize_inside: bool = False
    """Put the normalisation of the images into the file: it then takes values from 0 to 1."""
    data: Annotated[str | None, optional("DATA", "none")] = None
    """Data set on 64 of whose validation images the file is compared with the model too."""

    def run(self) -> int:
        """Print the report of the export."""
        from leanformer.export import NormalizingClassifier, export_model, format_of

        if not self.out.is_dir():
            format_of(self.out)  # before a large model is opened
        model = open_trainable(self.model, self.weights)
        given = NormalizingClassifier(model) if self.normalize_inside else model
        report = export_model(
            given, self.out, image_size=model.config.image_size, dynamic_batch=not self.fixed_batch,
            images=self._images(given.preprocess),
        )  # fmt: skip
        print("\n".join(report.lines()))
        print(f"license of the weights: {model.origin.get('license') or 'not recorded'}")
        out = quoted(self.out)
        print(f"next: leanformer predict {out} IMAGE, or leanformer bench {quoted(self.model)} {out}")
        return 0

    def _images(self, preprocess: Preprocess) -> Iterator[Tensor]:
        from leanformer.data import EvalBatches, open_data
        from leanformer.data.part import some_of

        if self.data is not None:
            some = some_of(open_data(self.data, "val"), COMPARED)
            for batch in EvalBatches(some, preprocess, 1 if self.fixed_batch else 16):
                yield batch.images
