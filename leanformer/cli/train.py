"""`leanformer train`."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from leanformer.training import Result, TrainConfig


from leanformer.cli.common import optional, quoted

FIELDS = (
    "data",
    "epochs",
    "batch_size",
    "ema",
    "precision",
    "seed",
    "workers",
    "checkpoint_every_steps",
    "device",
)
"""Options that are fields of the run by the same name."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model on a folder of images.

    The folder holds `train/` and `val/` with one folder per class each, or the class folders alone, of which about a
    fifth is then kept for validation. Without options a recipe for small data sets is used. Several processes train
    together under torchrun: torchrun --nproc-per-node 8 -m leanformer train ...
    """

    model: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = None
    """A model or a recipe; `leanformer list` and `leanformer list --recipes` show them. On ImageNet a model is trained
    as it was published."""
    data: Annotated[str | None, optional("DATA", "the recipe's")] = None
    """A folder of images, a list, an archive or shards of them, or the embedded data set `garments`. Required, unless
    the recipe names its data."""
    out: Path
    """The run's directory."""
    from_: Annotated[Path | None, optional("RUN/config.json", "none"), tyro.conf.arg(name="from")] = None
    """Repeat the run with this config, in place of MODEL; other options change it."""
    epochs: Annotated[int | None, optional("N", "the recipe's")] = None
    """Passes over the training images."""
    batch_size: Annotated[int | None, optional("N", "the recipe's")] = None
    """Images in one optimizer step."""
    lr: Annotated[float | None, optional("RATE", "the recipe's")] = None
    """Largest learning rate."""
    image_size: Annotated[int | None, optional("PIXELS", "the recipe's")] = None
    """Side of the images in pixels."""
    weights: Annotated[Path | None, optional("PATH", "none")] = None
    """A run directory, a published file or the name of published weights to start from."""
    ema: Annotated[float | None, optional("DECAY", "the recipe's")] = None
    """Decay of an averaged copy of the weights, which is then the result."""
    precision: Annotated[Literal["fp32", "bf16", "fp16"] | None, optional("{fp32,bf16,fp16}", "the recipe's")] = None
    """Arithmetic of the forward and backward pass."""
    seed: Annotated[int | None, optional("N", "the recipe's")] = None
    """Of everything random."""
    workers: Annotated[int | None, optional("N", "the recipe's")] = None
    """Processes that read images."""
    checkpoint_every_steps: Annotated[int | None, optional("N", "the recipe's")] = None
    """Optimizer steps between checkpoints, besides the one after each epoch."""
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, optional("{auto,cpu,cuda}", "the recipe's")] = None
    """Where to train."""
    set_: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="FIELD=VALUE")] = ()
    """Change any field of the run, such as optimizer.lr=1e-3 or model.drop_path=0.1. Repeat the option for several."""
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Also send the lines of `metrics.jsonl` there."""
    profile: bool = False
    """Say after each epoch where its time went."""
    resume: bool = False
    """Go on from the newest checkpoint in `--out`; the result is that of a run that was never stopped."""

    def run(self) -> int:
        """Train and say how it went."""
        from leanformer.training import Tracker, fit
        from leanformer.training.distributed import join_ranks

        with join_ranks() as ranks:
            result = fit(
                ranks.together(self._config),
                resume=self.resume,
                callbacks=[Tracker(name) for name in dict.fromkeys(self.track)],
                resume_command=_with_resume(sys.argv),
            )
        if ranks.is_first:
            self._tell(result)
        return 0

    def _tell(self, result: Result) -> None:
        from leanformer.tasks import format_line
        from leanformer.viz import write_run_page
        from leanformer.viz.run_page import PAGE

        if result.evaluation is not None:
            print(format_line(result.evaluation))
        if result.skipped:
            print(f"{len(result.skipped)} images could not be read and were left out")
        print(f"trained {result.steps} steps in {result.seconds:.0f} s; the model is in {result.out}")
        out = quoted(result.out)
        if result.evaluation is not None:
            print(f"the page of the run is {write_run_page(result.out, result.evaluation)}")
        elif not (result.out / PAGE).exists():
            print(f"the page of the run is not there: leanformer report {out} writes it")
        print(f"next: leanformer predict {out} IMAGE, or leanformer bench {out}")

    def _config(self) -> TrainConfig:
        from leanformer.recipes.changes import change, with_override
        from leanformer.recipes.dilution import with_removal

        config = self._start()
        if self.lr is not None:
            config = replace(config, optimizer=replace(config.optimizer, lr=self.lr))  # type: ignore[type-var]
        if self.image_size is not None:
            config = replace(config, model=with_override(config.model, "image_size", self.image_size))
        if self.weights is not None:
            config = replace(config, model=replace(config.model, weights=str(self.weights)))
        given = {name: getattr(self, name) for name in FIELDS if getattr(self, name) is not None}
        given |= {"profile": True} if self.profile else {}
        config = replace(config, **given)
        for assignment in self.set_:
            config = change(config, assignment)
        config = with_removal(config)
        _check_weights(config.model.weights)
        return config

    def _start(self) -> TrainConfig:
        """The recipe, or the run to repeat."""
        from leanformer.errors import ConfigError
        from leanformer.recipes import find_recipe, list_recipes
        from leanformer.recipes.changes import read_run

        if (self.model is None) == (self.from_ is None):
            raise ConfigError(
                "give either a model or a recipe (`leanformer list` shows them) or --from RUN/config.json"
            )
        if self.from_ is not None:
            return replace(read_run(self.from_), out=self.out)
        assert self.model is not None
        config = find_recipe(self.model, self.out, self.data)
        if self.data is None and self.model not in list_recipes():
            raise ConfigError("no data given; add --data FOLDER, or --data garments for the embedded images")
        return config


def _check_weights(weights: str | None) -> None:
    """Say what a recipe that starts from an earlier run needs, if that is not there."""
    from leanformer.errors import ConfigError
    from leanformer.zoo.resolve import kind_of

    if weights is not None and kind_of(weights) == "folder" and not Path(weights).exists():
        raise ConfigError(f"training is to start from {weights}, which is not there; name other weights by --weights")


def _with_resume(command: list[str]) -> str:
    """The command line that goes on with this one, under torchrun if that started it."""
    start = ["leanformer"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        start = ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], "-m", "leanformer"]
        nodes = os.environ["GROUP_WORLD_SIZE"]
        start[1:1] = [] if nodes == "1" else ["--nnodes", nodes]
    parts = [*start, *command[1:]]
    return shlex.join(parts if "--resume" in parts else [*parts, "--resume"])
