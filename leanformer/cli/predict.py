"""`leanformer predict`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from leanformer.cli.common import open_model, optional, print_json


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Name the class of images, with its probability."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, an exported .onnx file, or the name of a model with published weights or `--weights`."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")]
    """Image files."""
    weights: Annotated[Path | None, optional("PATH", "none")] = None
    """A published weight file for a model's name."""
    top: int = 3
    """Classes to print for each image, most probable first."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print a line for each image; 2 if one could not be read."""
        from leanformer import api
        from leanformer.errors import ConfigError, DataError

        if self.top < 1:
            raise ConfigError(f"--top must be at least 1, got {self.top}")
        if not self.images:
            raise ConfigError(f"no image given: leanformer predict {self.model} IMAGE ...")
        model = open_model(self.model, self.weights)
        found, failed = {}, False
        for path in self.images:
            try:
                found[str(path)] = api.predict(model, path, top=self.top)
            except DataError as error:
                print(f"leanformer: {error}", file=sys.stderr)
                failed = True
                continue
            if not self.json:
                print(f"{path}: {', '.join(f'{name} {100 * share:.1f} %' for name, share in found[str(path)])}")
        if self.json:
            print_json({path: [{"class": name, "probability": p} for name, p in best] for path, best in found.items()})
        return 2 if failed else 0
