"""What removing attention and merging tokens buy in time: DeiT, DeiT with attention removed, with tokens merged on top.

    OMP_NUM_THREADS=1 python benchmarks/deit_removal.py

All are timed in turns on one batch, with random weights, beside the DeiT of timm, with its attention in one kernel and
in the several steps of the published code. Removed sets and numbers of merged tokens are those of "MLP Can Be A Good
Transformer Learner" (https://arxiv.org/abs/2404.05657). Prints a Markdown table in a few minutes on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import timm
import torch
import tyro

import leanformer
from leanformer.bench import Runner, Timing, count_cost, measure_interleaved, record_method
from leanformer.bench.latency import eager_runner
from leanformer.edits import ClassTokenTail, Edit, MergeTokens, RemoveAttention
from leanformer.models import ImageClassifier

MERGED = {"tiny": (19, 14), "small": (22, 19)}
"""Tokens merged in each block that kept its attention, from the second on: of the smaller and of the larger set."""
SETS = ((0, 2, 4), (0, 2, 4, 6))


def edited(size: str, *edits: Edit) -> ImageClassifier:
    """The plain model with random weights, changed."""
    model = leanformer.build(f"deit_{size}")
    for edit in edits:
        edit.apply(model)
    return model.eval()


def variants(size: str) -> dict[str, ImageClassifier]:
    """The models by their rows; the first is what the others are compared with."""
    rows = {"plain": edited(size), "plain, merged": edited(size, MergeTokens(r=13))}
    for blocks, r in zip(SETS, MERGED[size], strict=True):
        name, removal, merging = "".join(map(str, blocks)), RemoveAttention(blocks=blocks), MergeTokens(r=r, start=1)
        rows[f"{name} removed"] = edited(size, removal)
        rows[f"{name} removed, class token tail"] = edited(size, removal, ClassTokenTail())
        rows[f"{name} removed, merged"] = edited(size, removal, merging)
        rows[f"{name} removed, merged, class token tail"] = edited(size, removal, merging, ClassTokenTail())
    return rows


def row(timing: Timing, macs: float | None) -> str:
    """One line of the table."""
    cells = [timing.name, "" if macs is None else f"{macs:.3f}"]
    cells.append(f"{timing.median_ms:.1f} ({timing.p10_ms:.1f} to {timing.p90_ms:.1f})")
    if timing.speedup is not None and timing.speedup_interval is not None:
        low, high = timing.speedup_interval
        cells.append(f"{1 / timing.speedup:.3f} ({1 / high:.3f} to {1 / low:.3f})")
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    size: Literal["tiny", "small"] = "small"
    """Of DeiT."""
    batch_size: int = 8
    threads: int = 1
    repeats: int = 15
    """Rounds that count."""

    def run(self) -> None:
        """Print the table, and how it was measured."""
        torch.manual_seed(0)
        models = variants(self.size)
        macs = {name: count_cost(model, 224).macs for name, model in models.items()}
        runners: list[Runner] = [eager_runner(name, model) for name, model in models.items()]
        for name, fused in (("timm's plain", True), ("timm's plain, attention not fused", False)):
            timm.layers.set_fused_attn(fused)
            runners.append(eager_runner(name, timm.create_model(f"deit_{self.size}_patch16_224", pretrained=False)))
        settings = {"batch_size": self.batch_size, "image_size": 224, "warmup": 2, "repeats": self.repeats}
        found = measure_interleaved(runners, **settings, threads=self.threads)
        print("| model | MACs | ms, median (p10 to p90) | time over plain, median of the rounds (95 %) |")
        print("| --- | --- | --- | --- |")
        for timing in found:
            share = macs[timing.name] / macs["plain"] if timing.name in macs else None
            print(row(timing, share))
        print(f"\nDeiT-{self.size[0].upper()}, 224 x 224, batch {self.batch_size}, float32, eager.\n")
        for field, text in record_method(**settings).machine_rows():
            print(f"- {field}: {text}")


if __name__ == "__main__":
    tyro.cli(Options).run()
