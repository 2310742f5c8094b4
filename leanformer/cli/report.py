"""`leanformer report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the page of a training run: curves, training images, classes, calibration, mistakes, configuration.

    The page is one file without links to anything else. A run that is still training gets what is known so far.
    """

    run_directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """What `leanformer train --out` wrote; its data must still be where it was."""
    batch_size: int = 64
    """Images in one forward pass of the evaluation."""

    def run(self) -> int:
        """Write the page and say where it is."""
        from leanformer.viz import write_run_page

        print(f"wrote {write_run_page(self.run_directory, batch_size=self.batch_size)}")
        return 0
