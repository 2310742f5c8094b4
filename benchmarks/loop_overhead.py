"""What our training loop costs over a bare torch loop: the same model, batches and optimizer, step by step in turns.

    OMP_NUM_THREADS=1 python benchmarks/loop_overhead.py

After each step of `fit`, a copy of the model takes one in ten lines of plain torch, so that what slows the machine down
slows both. Ours has everything that a run of the default recipe has between two evaluations: schedules, the log, the
progress line, the guard against signals, deterministic kernels on a CPU. Checkpoints and evaluations are left out of
both. Prints a Markdown table in less than three minutes on one core.
"""

from __future__ import annotations

import copy
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro

from leanformer.bench.latency import median_interval, quantile
from leanformer.bench.method import record_method
from leanformer.data.synthetic import shapes
from leanformer.recipes.registry import default_recipe
from leanformer.training import ModelSpec, TrainConfig, fit
from leanformer.training.callbacks import Callback
from leanformer.training.state import Run

CASES = {"deit_nano": (64, 32, 150), "swiftformer_nano": (224, 16, 60), "slab_deit_tiny": (224, 8, 30)}
"""Image size, batch size and steps for each model; those of the first one are short, so that it shows the most."""
WARM_UP = 3
"""Steps that do not count."""


class TakeTurns(Callback):
    """After each step of the loop, one of a bare loop; both timed by the clock and by the processor."""

    def __init__(self) -> None:
        self.ours: list[tuple[float, float]] = []
        self.bare: list[tuple[float, float]] = []

    def on_start(self, run: Run) -> None:
        """Copy the model, and begin the same epoch."""
        self.model = copy.deepcopy(run.model).train()
        rate = run.config.optimizer.lr  # type: ignore[attr-defined]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=0.05)
        self.batches = iter(run.train.batches(0))
        self.run = run
        self._mark = _clocks(run.device)

    def after_step(self, run: Run, step: int) -> None:
        """Note what the loop's step took, and take a bare one."""
        self.ours.append(_since(self._mark, run.device))
        torch.use_deterministic_algorithms(False)
        begun = _clocks(run.device)
        self._bare_step()
        self.bare.append(_since(begun, run.device))
        torch.use_deterministic_algorithms(run.device.type == "cpu")
        self._mark = _clocks(run.device)

    def _bare_step(self) -> float:
        batch = next(self.batches)
        images, labels = batch.images.to(self.run.device), batch.labels.to(self.run.device)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(images), labels, label_smoothing=self.run.config.label_smoothing)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        return loss.item()


def _clocks(device: torch.device) -> tuple[float, float]:
    """Seconds by the clock and of the processor; the device is done with what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def _since(mark: tuple[float, float], device: torch.device) -> tuple[float, float]:
    now = _clocks(device)
    return now[0] - mark[0], now[1] - mark[1]


def measure(name: str, image_size: int, batch_size: int, num_steps: int, device: str) -> TakeTurns:
    """The times of all steps of both loops."""
    images = shapes(batch_size * num_steps, size=image_size), shapes(batch_size, size=image_size, seed=1)
    turns = TakeTurns()
    with tempfile.TemporaryDirectory() as folder:
        spec = ModelSpec(name=name, overrides=(("image_size", image_size),))
        config: TrainConfig = replace(
            default_recipe(spec, Path(folder) / "run"),
            batch_size=batch_size,
            epochs=1,
            finish=(),
            evaluate_every=0,
            device=device,  # type: ignore[arg-type]
        )
        fit(config, data=images, callbacks=[turns])
    return turns


def row(name: str, turns: TakeTurns) -> str:
    """One line of the table."""
    image_size, batch_size, _ = CASES[name]
    cells = [name, f"{image_size} x {image_size}", str(batch_size), str(len(turns.ours) - WARM_UP)]
    ours, bare = turns.ours[WARM_UP:], turns.bare[WARM_UP:]
    cells += [f"{1000 * quantile(sorted(wall for wall, _ in steps), 0.5):.1f}" for steps in (bare, ours)]
    for clock in (0, 1):
        ratios = sorted(mine[clock] / theirs[clock] for mine, theirs in zip(ours, bare, strict=True))
        low, high = median_interval(ratios)
        cells.append(f"{quantile(ratios, 0.5):.3f} ({low:.3f} to {high:.3f})")
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    models: tuple[str, ...] = tuple(CASES)
    """Among those listed in `CASES`."""
    device: str = "cpu"
    """cpu or cuda."""
    steps: float = 1.0
    """Times as many steps."""

    def run(self) -> None:
        """Print the table, and how it was measured."""
        print("| model | images | batch | steps | bare loop, ms | our loop, ms | time ratio | processor ratio |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name in self.models:
            image_size, batch_size, steps = CASES[name]
            steps = max(round(steps * self.steps), WARM_UP + 5)
            print(row(name, measure(name, image_size, batch_size, steps, self.device)), flush=True)
        print("\nRatios: ours over bare, median of the steps with its 95 % interval.")
        method = record_method(batch_size=0, image_size=0, warmup=WARM_UP, repeats=0, device=torch.device(self.device))
        for field, text in method.machine_rows():
            print(f"- {field}: {text}")


if __name__ == "__main__":
    tyro.cli(Options).run()
