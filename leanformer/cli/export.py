"""`leanformer export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from leanformer.cli.common import open_trainable, optional, quoted


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a model for another runtime, and compare the file with the model before calling it done."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or the name of a model with published weights or `--weights`."""
    out: Path
    """The file to write; its name ends in .onnx."""
    format: Literal["onnx"] = "onnx"
    """Of the file."""
    weights: Annotated[Path | None, optional("PATH", "none")] = None
    """A published weight file for a model's name."""
    fixed_batch: bool = False
    """Fix the batch size at 1 instead of leaving it open."""

    def run(self) -> int:
        """Print the report of the export."""
        from leanformer.errors import ConfigError
        from leanformer.export import export_onnx

        if self.out.suffix != ".onnx" and not self.out.is_dir():
            other = self.out.with_name(f"{self.out.name}.onnx")
            raise ConfigError(f"{self.out}: exported files are known by .onnx at the end of their name; take {other}")
        model = open_trainable(self.model, self.weights)
        report = export_onnx(model, self.out, image_size=model.config.image_size, dynamic_batch=not self.fixed_batch)
        print("\n".join(report.lines()))
        print(f"license of the weights: {model.origin.get('license') or 'not recorded'}")
        out = quoted(self.out)
        print(f"next: leanformer predict {out} IMAGE, or leanformer bench {quoted(self.model)} {out}")
        return 0
