"""Train the same small backbone with every attention and norm on the whole of Fashion-MNIST, and write the table.

    apt-get install dataset-fashion-mnist
    OMP_NUM_THREADS=1 python benchmarks/fashion_mnist.py --device-name epyc-2core

Every run has a directory of its own below `--out`. Called again, the script goes on where it was stopped, skips what is
finished, and writes the table of what there is. What stands below `## Notes` in the page is kept.
"""

from __future__ import annotations

import copy
import datetime
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from leanformer import edits
from leanformer.bench.cost import count_cost
from leanformer.bench.method import record_method
from leanformer.data import Augment, EvalBatches, LabeledImages, open_data
from leanformer.errors import EditError
from leanformer.layers.attention import Additive, AttentionConfig, FocusedLinear, SimplifiedLinear, Softmax
from leanformer.layers.norm import BatchNorm, LayerNorm, NormConfig, Norms, PRepBN, RepBN
from leanformer.models import BackboneConfig, ImageClassifier, Preprocess
from leanformer.recipes.dilution import diluted
from leanformer.recipes.registry import default_recipe
from leanformer.tasks import Classification, Metrics
from leanformer.training import AdamW, Linear, ModelSpec, Scheduled, TrainConfig, fit
from leanformer.training.callbacks import Callback
from leanformer.training.state import Run
from leanformer.zoo import find

FOLDER = Path(__file__).parent
NOTES = "## Notes\n"
GREY = Preprocess(image_size=(28, 28), crop=1.0, mean=(0.286, 0.286, 0.286), std=(0.353, 0.353, 0.353))
EPOCHS = 5
TUNING_EPOCHS = 3
BATCH_SIZE = 128
RATE = 3e-3
TUNING_RATE = 2e-3
FADING = Scheduled(what="attention_share", schedule=Linear(start=1.0, end=0.0, until=0.5))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A model, and what it starts from."""

    config: BackboneConfig
    start: str | None = None
    """The model whose finished run of the same seed goes on; None: random weights."""
    diluted: tuple[int, ...] = ()
    """Blocks whose attention fades out in the first half of training, and is removed at the end."""


def _shared(attention: AttentionConfig, norm: NormConfig) -> Plan:
    """The backbone of the comparison: queries meet the keys of the whole map in every stage."""
    base = replace(find("pvt_v2_nano"), image_size=28, reductions=(1, 1, 1))
    return Plan(config=replace(base, attention=attention, norms=Norms(block=norm)))


VIT = replace(find("deit_nano"), image_size=28, patch_size=4)
MODELS = {
    "softmax, LayerNorm": _shared(Softmax(), LayerNorm()),
    "softmax, PRepBN": _shared(Softmax(), PRepBN()),
    "softmax, BatchNorm": _shared(Softmax(), BatchNorm()),
    "softmax, RepBN": _shared(Softmax(), RepBN()),
    "simplified, LayerNorm": _shared(SimplifiedLinear(), LayerNorm()),
    "simplified, PRepBN": _shared(SimplifiedLinear(), PRepBN()),
    "focused, LayerNorm": _shared(FocusedLinear(), LayerNorm()),
    "additive, LayerNorm": _shared(Additive(), LayerNorm()),
    "SwiftFormer": Plan(config=replace(find("swiftformer_nano"), image_size=28)),
    "L2ViT": Plan(config=replace(find("l2vit_nano"), image_size=28)),
    "ViT": Plan(config=VIT),
    "ViT, trained on": Plan(config=VIT, start="ViT"),
    "ViT, half diluted": Plan(config=VIT, start="ViT", diluted=(0, 2)),
}
TWINS = (
    ("softmax, PRepBN", "softmax, LayerNorm"),
    ("simplified, PRepBN", "simplified, LayerNorm"),
    ("softmax, RepBN", "softmax, LayerNorm"),
    ("softmax, BatchNorm", "softmax, LayerNorm"),
    ("ViT, half diluted", "ViT"),
    ("ViT, half diluted", "ViT, trained on"),
)
REPEATED = ("softmax, LayerNorm", "softmax, PRepBN", "simplified, LayerNorm", "simplified, PRepBN")
"""What is trained with every seed; the others are with the first."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is trained, and where to."""

    device_name: str
    """What the page's name calls this machine, such as `epyc-2core`."""
    data: str = "/usr/share/datasets/fashion-mnist"
    out: Path = Path("runs/fashion-mnist")
    seeds: int = 1
    """Runs of the models in `REPEATED`; the others are trained once."""
    date: str = datetime.date.today().isoformat()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A finished run."""

    model: str
    seed: int
    parameters: int
    macs: int
    epochs: str
    """With those of what it started from."""
    cpu_seconds: float
    wall_seconds: float
    top1: float
    folding: str
    """What folding the norms did."""
    right: torch.Tensor
    """bool (N,): which test images the model gets right."""


class CpuTime(Callback):
    """Adds the seconds that this process computed to a file, in which those of a stopped run are."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_start(self, run: Run) -> None:
        """Start the clock."""
        self.started = time.process_time()

    def on_epoch(self, run: Run, epoch: int) -> None:
        """Add what the epoch took."""
        self._add()

    def on_end(self, run: Run) -> None:
        """Add the rest."""
        self._add()

    def _add(self) -> None:
        now = time.process_time()
        self.file.write_text(f"{_seconds(self.file) + now - self.started:.1f}\n")
        self.started = now


def _seconds(file: Path) -> float:
    return float(file.read_text()) if file.exists() else 0.0


def run_config(name: str, options: Options, seed: int) -> TrainConfig:
    """The recipe that every model gets: the library's default one with larger batches, a larger rate and flips alone.

    Progressive norms become RepBN over the first half; batch statistics are recalibrated at the end.
    """
    plan = MODELS[name]
    weights = None if plan.start is None else str(_directory(plan.start, options, seed))
    recipe = default_recipe(ModelSpec(config=plan.config, weights=weights), _directory(name, options, seed))
    fading = (FADING,) if plan.diluted else ()
    config = replace(
        recipe,
        data=options.data,
        augment=Augment(shift=0),
        preprocess=GREY,
        optimizer=AdamW(lr=RATE if weights is None else TUNING_RATE, weight_decay=0.05),
        epochs=EPOCHS if weights is None else TUNING_EPOCHS,
        batch_size=BATCH_SIZE,
        schedules=(*recipe.schedules, *fading),
        seed=seed,
        evaluate_every=0,
    )
    return diluted(config, plan.diluted) if plan.diluted else config


def _directory(name: str, options: Options, seed: int) -> Path:
    return options.out / f"{name.replace(', ', '-').replace(' ', '-').lower()}-{seed}"


def train(name: str, options: Options, seed: int, test: LabeledImages) -> Row:
    """Train a model, or take it as it was trained before, and measure it."""
    config = run_config(name, options, seed)
    config.out.mkdir(parents=True, exist_ok=True)
    clock = config.out / "cpu_seconds.txt"
    result = fit(config, resume=True, callbacks=(CpuTime(clock),))
    model = result.model.eval()
    metrics, cost = evaluate(model, test), count_cost(model, 28)
    print(f"{name}, seed {seed}: {100 * metrics.top1:.2f} %, {_seconds(clock):.0f} CPU seconds", flush=True)
    return Row(
        model=name,
        seed=seed,
        parameters=cost.parameters,
        macs=cost.macs,
        epochs=str(config.epochs) if MODELS[name].start is None else f"{EPOCHS} + {config.epochs}",
        cpu_seconds=_seconds(clock),
        wall_seconds=result.seconds,
        top1=metrics.top1,
        folding=fold(model, metrics, test),
        right=metrics.predictions == metrics.labels,
    )


def evaluate(model: ImageClassifier, test: LabeledImages) -> Metrics:
    """The model's figures on the test images, in their order."""
    metrics = Classification().evaluate(model, EvalBatches(test, model.preprocess, 500))
    assert isinstance(metrics, Metrics)
    return metrics


def fold(model: ImageClassifier, before: Metrics, test: LabeledImages) -> str:
    """What is left of the norms when they are folded, and how many predictions that changes."""
    folded = copy.deepcopy(model)
    try:
        details = edits.apply(folded, edits.FoldNorms())[0].details
    except EditError:
        return "none can be"
    changed = int((evaluate(folded, test).predictions != before.predictions).sum())
    counts = [f"{len(details[what])} {what}" for what in ("folded", "frozen", "left") if details[what]]
    return f"{', '.join(counts)}; {changed} predictions change"


def difference(row: Row, twin: Row) -> tuple[float, float]:
    """By how much `row` is better than its twin, and the standard error of that over the test images, in points.

    Both saw the same images, so the error counts those alone on which they differ.
    """
    gap = row.right.double() - twin.right.double()
    return 100 * gap.mean().item(), 100 * gap.std().item() / len(gap) ** 0.5


def page(rows: list[Row], options: Options, notes: str) -> str:
    """The table, the differences between twins, and how all was measured."""
    found = {(row.model, row.seed): row for row in rows}
    lines = [
        "# Fashion-MNIST: attentions and norms on one budget",
        "",
        f"Every model is trained on the 60 000 images for {EPOCHS} epochs by one recipe and tested on the 10 000. "
        "Top-1 is that of the finished model, in per cent; its standard error over the test images is about 0.3.",
        "",
        "| model | seed | top-1 | parameters | MACs | epochs | CPU seconds | wall seconds | norms folded |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(_line, rows),
        "",
        "| model | twin | seed | top-1 | points | standard error |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (name, seed), row in found.items():
        for twin in (found.get((second, seed)) for first, second in TWINS if first == name):
            if twin is not None:
                points, error = difference(row, twin)
                tops = f"{100 * row.top1:.2f} / {100 * twin.top1:.2f}"
                lines.append(f"| {name} | {twin.model} | {seed} | {tops} | {points:+.2f} | {error:.2f} |")
    lines += ["", "| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in method(options)), ""]
    return "\n".join(lines) + f"\n{NOTES}{notes}"


def _line(row: Row) -> str:
    cells = (
        row.model,
        row.seed,
        f"{100 * row.top1:.2f}",
        f"{row.parameters / 1e6:.2f} M",
        f"{row.macs / 1e6:.1f} M",
        row.epochs,
        f"{row.cpu_seconds:.0f}",
        f"{row.wall_seconds:.0f}",
        row.folding,
    )
    return f"| {' | '.join(map(str, cells))} |"


def method(options: Options) -> list[tuple[str, str]]:
    """Machine, versions, command and budget."""
    record = dict(record_method(batch_size=BATCH_SIZE, image_size=28, warmup=0, repeats=1).rows())
    names = ("cpu", "cores", "threads", "system", "versions", "commit", "command")
    budget = (
        f"{EPOCHS} epochs of {BATCH_SIZE} images a step; AdamW at {RATE:g}, weight decay 0.05; warm-up and cosine; "
        "label smoothing 0.1, clipping 5, flips; PRepBN gives LayerNorm up over the first half; "
        "batch norms are recalibrated on 100 batches"
    )
    return [
        ("date", options.date),
        *((name, record[name]) for name in names),
        ("budget", budget),
        ("data", options.data),
    ]


def main(options: Options) -> None:
    """Train what is asked for and write the page and its figures."""
    test = open_data(options.data, "val")
    runs = [(name, seed) for seed in range(options.seeds) for name in (MODELS if seed == 0 else REPEATED)]
    target = FOLDER / f"{options.date}-{options.device_name}-fashion-mnist.md"
    rows: list[Row] = []
    for name, seed in runs:
        rows.append(train(name, options, seed, test))
        notes = target.read_text().partition(NOTES)[2] if target.exists() else ""
        target.write_text(page(rows, options, notes))
        figures = [{name: value for name, value in vars(row).items() if name != "right"} for row in rows]
        target.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    print(target)


if __name__ == "__main__":
    main(tyro.cli(Options))
