"""`leanformer compress`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from leanformer.cli.common import check_free, open_trainable, optional, options_of, quoted

if TYPE_CHECKING:
    from leanformer.compression import Chooser, Figures, Meter, Tuning
    from leanformer.data import LabeledImages
    from leanformer.models import ImageClassifier


@dataclass(frozen=True, kw_only=True)
class Compress:
    """Make a trained model lean, step by step, with accuracy and latency measured after each.

    With `--edit` the edits are applied in order; one that makes the model slower is refused. With `--target-latency` a
    chain of edits is searched that reaches it on this device and loses at most `--max-drop` points; candidates that
    lose more are trained until they recover. A search that was stopped goes on when it is started again.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or the name of a model with published weights or `--weights`."""
    edit: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An edit: fold_norms, remove_attention:0.4 (a share that a plan chooses), merge_tokens:13, drop_heads:0.25, or
    JSON with all of its fields. Repeat the option for several, in order."""
    target_latency: Annotated[str | None, optional("0.6x|8ms", "none")] = None
    """Search for edits that reach a share of the model's latency, or milliseconds."""
    max_drop: float = 1.0
    """Points of accuracy that a search may lose."""
    out: Path
    """Directory of the finished model, and of a search's figures."""
    weights: Annotated[Path | None, optional("PATH", "none")] = None
    """A published weight file for a model's name."""
    data: Annotated[str | None, optional("DATA", "none")] = None
    """Data set: its validation images measure the accuracy, its training images are for plans and for training."""
    subset: int = 1000
    """Validation images that a search compares candidates on; the result is measured on all."""
    plan: Literal["entropy", "accuracy", "latency", "exhaustive", "random", "first"] = "entropy"
    """What chooses layers and heads."""
    plan_images: int = 512
    """Training images that a plan measures with."""
    tune_epochs: int = 10
    """Epochs for which a search trains a candidate; 0 trains none."""
    batch_size: int = 1
    """Images in each timed forward pass."""
    repeats: int = 30
    """Timed rounds; at least 6."""
    threads: Annotated[int | None, optional("N", "torch's")] = None
    """Threads of torch while it is timed."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where to measure and to train."""
    workers: int = 0
    """Processes that read images."""
    seed: int = 0
    """Of random plans and of training."""
    force: bool = False
    """Keep edits that make the model slower."""

    def run(self) -> int:
        """Print a line for each step; save the model and a page."""
        from leanformer.compression import Meter, Target, parse_step
        from leanformer.data import open_data
        from leanformer.data.part import some_of
        from leanformer.errors import ConfigError
        from leanformer.training.randomness import choose_device

        self._check()
        target = None if self.target_latency is None else Target.parse(self.target_latency)
        steps = [parse_step(text) for text in self.edit]
        check_free(self.out)
        model = open_trainable(self.model, self.weights).to(choose_device(self.device))
        images = None
        if self.data is not None:
            images = open_data(self.data, "val", options_of(self.model, model, self.data))
        shown = images if images is None or target is None else some_of(images, self.subset)
        meter = Meter(
            model, shown, self.data or "", batch_size=self.batch_size, repeats=self.repeats, threads=self.threads,
            workers=self.workers,
        )  # fmt: skip
        if target is None:
            return self._apply(meter, steps)
        if images is None:
            raise ConfigError("a search measures accuracy; add --data")
        return self._search(meter, target, images)

    def _check(self) -> None:
        from leanformer.compression.figures import FEWEST_ROUNDS
        from leanformer.errors import ConfigError

        if not self.edit and self.target_latency is None:
            raise ConfigError("nothing to do: add --edit fold_norms, or --target-latency 0.6x with --data")
        if self.edit and self.target_latency is not None:
            raise ConfigError("give either --edit, for these edits, or --target-latency, for a search")
        for name in ("batch_size", "plan_images", "subset"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.repeats < FEWEST_ROUNDS:
            raise ConfigError(
                f"--repeats must be at least {FEWEST_ROUNDS}, got {self.repeats}: fewer rounds tell no difference "
                "from noise"
            )
        if self.max_drop < 0 or self.tune_epochs < 0:
            raise ConfigError(
                f"--max-drop and --tune-epochs must be 0 or more, got {self.max_drop} and {self.tune_epochs}"
            )

    def _chooser(self, original: ImageClassifier, *, chooses: bool = True) -> Chooser:
        """With training images, if it chooses by them."""
        from leanformer.compression import Chooser
        from leanformer.compression.choosing import NEEDS_DATA
        from leanformer.data import open_data

        images = None
        if chooses and self.data is not None and self.plan in NEEDS_DATA:
            images = open_data(self.data, "train", options_of(self.model, original, self.data))
        return Chooser(
            images=images, way=self.plan, count=self.plan_images, seed=self.seed, timed=self.batch_size,
            progress=paced(10.0),
        )  # fmt: skip

    def _apply(self, meter: Meter, steps: list) -> int:
        from leanformer.compression import run_chain

        chooser = self._chooser(meter.original, chooses=any(step.needs_data for step in steps))
        chain = run_chain(meter.original, steps, meter, chooser, force=self.force, tell=_tell)
        self._save(chain.model, chain.rows, meter, chain.kept[-1], {"plans": chain.plans})
        return 0

    def _search(self, meter: Meter, target: object, images: LabeledImages) -> int:
        from leanformer.compression import Goal, Searcher, Target

        assert isinstance(target, Target)
        folder = self.out / "search"
        found = Searcher(
            original=meter.original, meter=meter, chooser=self._chooser(meter.original), all_images=images,
            folder=folder, goal=Goal(target=target, max_drop=self.max_drop), tuning=self._tuning(meter.original),
            tell=_tell,
        ).run()  # fmt: skip
        asked = {"target": str(target), "max_drop": self.max_drop}
        self._save(found.model, found.rows, meter, found.best, asked)
        return 0

    def _tuning(self, original: ImageClassifier) -> Tuning | None:
        """As the run was trained, if the model is one."""
        from leanformer.compression import Tuning
        from leanformer.recipes.changes import read_run
        from leanformer.training import TrainConfig

        if not self.tune_epochs:
            return None
        assert self.data is not None
        config = Path(self.model) / "config.json"
        augment = (read_run(config) if config.is_file() else TrainConfig).augment
        return Tuning(
            data=self.data, options=options_of(self.model, original, self.data), augment=augment,
            epochs=self.tune_epochs, workers=self.workers, seed=self.seed, device=self.device,
        )  # fmt: skip

    def _save(
        self, model: ImageClassifier, rows: list[Figures], meter: Meter, last: Figures, asked: dict[str, object]
    ) -> None:
        from leanformer import bench
        from leanformer.checkpoints import runs
        from leanformer.compression.page import write_page

        method = bench.record_method(
            batch_size=meter.batch_size, image_size=meter.image_size, warmup=5, repeats=meter.repeats,
            threads=meter.threads, device=next(meter.original.parameters()).device,
        )  # fmt: skip
        extra: dict[str, object] = {
            "compression": {"from": self.model, **asked, "rows": [row.to_dict() for row in rows]}
        }
        if last.score is not None:
            extra["metrics"] = {last.score_name.replace("-", ""): last.score, "count": last.num_images}
        runs.save(model.cpu(), self.out, extra=extra)
        page = write_page(self.out / "compress.html", self.model, rows, last, method.rows())
        out = quoted(self.out)
        print(f"saved in {self.out}; the page is {page}")
        data = f" --data {quoted(self.data)}" if self.data else ""
        print(f"next: leanformer evaluate {out}{data or ' --data DATA'}, or leanformer bench {out}")


def _tell(line: str) -> None:
    print(line, flush=True)


def paced(seconds: float) -> Callable[[object], None]:
    """Prints how far a plan is, on standard error, where it takes longer than so many seconds and each time they are
    over."""
    last = time.monotonic()

    def tell(made: object) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            print(f"  choosing: {made}", file=sys.stderr, flush=True)

    return tell
