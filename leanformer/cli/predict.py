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
    """Name the class of images, with its probability; of a model for images of several classes, all that it finds."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, an exported file, or the name of a model with published weights or `--weights`."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")]
    """Image files."""
    weights: Annotated[Path | None, optional("PATH", "none")] = None
    """A published weight file for a model's name."""
    top: Annotated[int | None, optional("N", "3, or all of several")] = None
    """Classes to print for each image at most, most probable first."""
    threshold: Annotated[float | None, optional("P", "0, or 0.5 for several")] = None
    """Least probability of a class to be printed."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print a line for each image; 2 if one could not be read."""
        from leanformer import api
        from leanformer.errors import ConfigError, DataError

        if self.top is not None and self.top < 1:
            raise ConfigError(f"--top must be at least 1, got {self.top}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"--threshold must be a probability, 0 to 1, got {self.threshold}")
        if not self.images:
            raise ConfigError(f"no image given: leanformer predict {self.model} IMAGE ...")
        model = open_model(self.model, self.weights)
        top = self.top or (None if model.multi_label else 3)
        found, failed = {}, False
        for path in self.images:
            try:
                found[str(path)] = api.predict(model, path, top, self.threshold)
            except DataError as error:
                hint = f"; give the images in it: {path}/*" if path.is_dir() else ""
                print(f"leanformer: {error}{hint}", file=sys.stderr)
                failed = True
                continue
            if not self.json:
                named = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found[str(path)])
                print(f"{path}: {named or 'no class is probable enough'}")
        if self.json:
            print_json({path: [{"class": name, "probability": p} for name, p in best] for path, best in found.items()})
        return 2 if failed else 0
