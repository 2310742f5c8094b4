"""`leanformer advise`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from leanformer.cli.common import open_trainable, optional, print_json

if TYPE_CHECKING:
    from leanformer.compression.advice.advise import Open
    from leanformer.models import ImageClassifier


@dataclass(frozen=True, kw_only=True)
class Advise:
    """Say where a model's time goes on this device, what each edit would buy, and what to do first.

    Also, from how many tokens on each linear attention is faster than softmax. All is measured in turns in one process,
    and kept for this device and these versions.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """The name of a model (with random weights: time does not depend on them) or a run directory."""
    image_sizes: Annotated[tuple[int, ...], optional("PIXELS ...", "the model's")] = ()
    """Sides of the images to measure at."""
    batch_sizes: tuple[int, ...] = (1,)
    """Images in each forward pass, one number or several."""
    repeats: int = 15
    """Rounds of each measurement, at most; at least 6."""
    threads: Annotated[int | None, optional("N", "torch's")] = None
    """Threads of torch."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where to measure."""
    json: bool = False
    """Print JSON."""
    out: Annotated[Path | None, optional("PAGE.html", "none")] = None
    """Also write a page."""
    fresh: bool = False
    """Measure again what is known."""

    def run(self) -> int:
        """Print the advice; write the page."""
        from leanformer.compression.advice import Timer, advice_lines, advise
        from leanformer.compression.advice.page import write_page
        from leanformer.training.randomness import choose_device
        from leanformer.zoo.resolve import is_stored

        self._check()
        stored = is_stored(self.model)
        advice = advise(
            self.model, self._opener(stored), image_sizes=self.image_sizes, batch_sizes=self.batch_sizes,
            timer=Timer(repeats=self.repeats, threads=self.threads, device=choose_device(self.device)), stored=stored,
            fresh=self.fresh,
        )  # fmt: skip
        if self.json:
            print_json(advice.to_dict())
        else:
            print("\n".join(advice_lines(advice)))
        if self.out is not None:
            page = write_page(self.out, advice)
            if not self.json:
                print(f"\nthe page is {page}")
        return 0

    def _check(self) -> None:
        from leanformer.compression.figures import FEWEST_ROUNDS
        from leanformer.errors import ConfigError

        if not self.batch_sizes:
            raise ConfigError("no batch size given: --batch-sizes 1, or several")
        for name in ("image_sizes", "batch_sizes"):
            if wrong := [value for value in getattr(self, name) if value < 1]:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {wrong[0]}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"--threads must be at least 1, got {self.threads}")
        if self.repeats < FEWEST_ROUNDS:
            raise ConfigError(
                f"--repeats must be at least {FEWEST_ROUNDS}, got {self.repeats}: fewer rounds tell no difference "
                "from noise"
            )
        if self.out is not None and self.out.is_dir():
            raise ConfigError(f"{self.out} is a directory; give a file for the page, such as {self.out}/advice.html")

    def _opener(self, stored: bool) -> Open:
        from leanformer import api
        from leanformer.compression.advice import rebuilt

        if not stored:
            return lambda size: api.build(self.model, **({} if size is None else {"image_size": size}))
        loaded = open_trainable(self.model)

        def resized(size: int | None) -> ImageClassifier:
            return loaded if size is None or (size, size) == loaded.config.image_grid else rebuilt(loaded, size)

        return resized
