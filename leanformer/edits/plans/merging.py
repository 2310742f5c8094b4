"""How many tokens each block should merge: as many as are alike there ("Token Merging: Your ViT But Faster",
https://arxiv.org/abs/2210.09461, merges the same number in each; appendix D searches for better ones)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from leanformer import ops
from leanformer.edits.plans.calibration import Calibration
from leanformer.edits.plans.network import Network
from leanformer.edits.plans.plan import Plan, count_of
from leanformer.edits.plans.search import Progress, Trial
from leanformer.edits.sites import block_sites
from leanformer.edits.tokens import MergeTokens
from leanformer.errors import DataError, EditError
from leanformer.layers.block import Block, Stage
from leanformer.layers.branch import Branch
from leanformer.layers.merging import MergedTokens, MergingSequence, match_keys, merges
from leanformer.layers.site import Grid
from leanformer.models import ImageClassifier

STEPS = 12
"""Halvings of the range of the threshold, which leave 0.0005 of it."""


def plan_token_merging(
    model: nn.Module,
    batches: Callable[[], Iterable[Tensor]],
    *,
    ratio: float | None = None,
    num_tokens: int | None = None,
    start: int = 0,
    proportional: bool = True,
    memory: int = 2**30,
    progress: Callable[[Progress], None] | None = None,
) -> Plan:
    """Choose how many tokens each block of an image classifier merges, so that a given number is merged in all; the
    model stays as it is.

    One threshold holds for all blocks: each merges as many tokens as have, in the mean over the images, a partner whose
    key is more similar (cosine) than that, after what the blocks before have merged. The threshold is the highest with
    which the number is reached, so that in no block pairs are merged that differ more than they must.

    Args:
        batches: gives the batches of images (B, 3, H, W) anew at each call; a few hundred images tell enough.
        ratio: share of the tokens of the map that are merged away in all blocks together, rounded to whole ones.
        num_tokens: their number, in place of `ratio`.
        start: as for `MergeTokens`.
        proportional: as for `MergeTokens`.
        memory: bytes that the tokens of all images may take at once, at one place of the network.
        progress: called after each pass.

    Raises:
        EditError: for models that cannot merge tokens, naming the module.
        ConfigError: for more tokens than all blocks together can merge.
        DataError: without images, with too few, or with more than fit into `memory`.
    """
    if not isinstance(model, ImageClassifier):
        raise EditError(f"plans choose edits of image classifiers, got {type(model).__name__}")
    began = time.perf_counter()
    merging = copy.deepcopy(model)
    MergeTokens(r=(0,), start=start, proportional=proportional).apply(merging)
    network = Network(merging, [])
    with network.at_rest():
        simulation = _Simulation(network, Calibration(batches, labeled=False), start, memory)
        everything = simulation.run(-1.0, simulation.num_tokens * len(simulation.merging))
        target = count_of(ratio, num_tokens, simulation.num_tokens, "tokens to merge", sum(everything))
        threshold, amounts, trials = _search(simulation, everything, target, progress)
    return Plan(
        edit=MergeTokens(r=amounts, start=start, proportional=proportional),
        asked={"search": "threshold", "ratio": ratio, "num_tokens": target, "start": start},
        changes=tuple(f"{amount}" for amount in amounts),
        score=1.0 - threshold,
        unit="(1 - cosine)",
        trials=tuple(trials),
        num_images=simulation.calibration.num_images,
        forward_passes=1.0 + len(trials),
        seconds=time.perf_counter() - began,
    )


def _search(
    simulation: _Simulation, everything: Sequence[int], target: int, progress: Callable[[Progress], None] | None
) -> tuple[float, tuple[int, ...], list[Trial]]:
    """The highest threshold that reaches `target`, by halving, and its amounts; -1, which merges `everything`, does."""
    low, high, trials = -1.0, 1.0, []
    amounts = tuple(min(each, max(0, target - sum(everything[:number]))) for number, each in enumerate(everything))
    for number in range(1, STEPS + 1):
        threshold = (low + high) / 2
        tried = simulation.run(threshold, target)
        merged = sum(tried)
        score = 1.0 - threshold
        figures = {"threshold": threshold, "merged": float(merged)}
        trials.append(Trial(round=number, changes=(f"{merged} tokens",), score=score, figures=figures, rank=(score,)))
        if merged >= target:
            low, amounts = threshold, tried
        else:
            high = threshold
        if progress is not None:
            count = simulation.calibration.num_images or 0
            progress(Progress(round=number, rounds=STEPS, variants=1, done=count, total=count))
    return low, amounts, trials


@dataclass(frozen=True)
class _Entry:
    """A batch in front of the first block that may merge."""

    tokens: Tensor
    grid: Grid


class _Simulation:
    """A classifier whose blocks merge, all batches block by block, so that what all of them have in common decides."""

    def __init__(self, network: Network, calibration: Calibration, start: int, memory: int) -> None:
        self.calibration = calibration
        model = network.model
        attending = [site for site in block_sites(model) if isinstance(site.block.attn, Branch)]
        self.merging = {id(site.block) for site in attending[start:]}
        stages = [stage for stage in model.backbone.stages if isinstance(stage, Stage)]
        first = next(i for i, stage in enumerate(stages) if isinstance(stage.blocks, MergingSequence))
        self.before, self.stages = stages[:first], stages[first:]
        self.entries = self._enter(network, memory)

    @property
    def num_tokens(self) -> int:
        """Tokens of the map in front of the first block that merges."""
        sequence: MergingSequence = self.stages[0].blocks  # type: ignore[assignment]
        return self.entries[0].tokens.shape[1] - sequence.prefix_tokens

    def run(self, threshold: float, target: int) -> tuple[int, ...]:
        """How many tokens each block merges whose pairs are to be more similar than `threshold`, in order and until
        there are `target`; what is behind that is left out."""
        amounts: list[int] = []
        states = [(entry.tokens, entry.grid) for entry in self.entries]
        for number, stage in enumerate(self.stages):
            if number:
                states = [stage.enter(*state) for state in states]
            if not isinstance(stage.blocks, MergingSequence):
                states = [(stage.blocks(*state), state[1]) for state in states]
            else:
                states = self._run_merging(stage.blocks, states, threshold, target, amounts)
            if sum(amounts) >= target:
                break
            if stage.norm is not None:
                states = [(stage.norm(x), grid) for x, grid in states]
        return (*amounts, *(0,) * (len(self.merging) - len(amounts)))

    def _enter(self, network: Network, memory: int) -> list[_Entry]:
        entries, taken = [], 0
        for images, _ in self.calibration.read():
            if not entries:
                network.check(images[:1])
            x, grid = network.model.backbone.embed(network.to_model(images))
            for stage in self.before:
                x, grid = stage(x, grid)
            x, grid = self.stages[0].enter(x, grid)
            taken += x.numel() * x.element_size()
            if taken > memory:
                fitting = memory * (sum(len(entry.tokens) for entry in entries) + len(x)) // taken
                raise DataError(
                    f"the tokens of all images take more than the {memory / 2**20:.0f} MiB of memory=; "
                    f"{fitting} images fit"
                )
            entries.append(_Entry(x, grid))
        return entries

    def _run_merging(
        self,
        sequence: MergingSequence,
        states: list[tuple[Tensor, Grid]],
        threshold: float,
        target: int,
        amounts: list[int],
    ) -> list[tuple[Tensor, Grid]]:
        """The states behind the sequence; what is merged in it is appended to `amounts`."""
        merged = [MergedTokens(x, None, None) for x, _ in states]
        for block in sequence:
            if sum(amounts) >= target:
                break
            if not isinstance(block, Block) or (merged[0].sizes is None and id(block) not in self.merging):
                merged = [
                    tokens._replace(x=block(tokens.x, grid)) for tokens, (_, grid) in zip(merged, states, strict=True)
                ]
                continue
            keys: list[Tensor] = []
            for number, (_, grid) in enumerate(states):
                merged[number], seen = sequence.attend(block, merged[number], grid)
                if id(block) in self.merging and merges(block):
                    keys.append(match_keys(block, seen))
            if id(block) in self.merging:
                most = target - sum(amounts)
                amounts.append(_alike(keys, sequence.prefix_tokens, threshold, most) if keys else 0)
                if amounts[-1]:
                    merged = [sequence.merge(*pair, amounts[-1]) for pair in zip(merged, keys, strict=True)]
            merged = [sequence.finish(block, tokens, grid) for tokens, (_, grid) in zip(merged, states, strict=True)]
        return [(tokens.restored(), grid) for tokens, (_, grid) in zip(merged, states, strict=True)]


def _alike(keys: list[Tensor], prefix_tokens: int, threshold: float, most: int) -> int:
    """How many tokens of an image, in the mean, have a partner more similar than the threshold."""
    alike = sum(int((ops.best_matches(each, prefix_tokens)[0] > threshold).sum()) for each in keys)
    count = round(alike / sum(len(each) for each in keys))
    return ops.merge_amount(min(count, most), keys[0].shape[1], prefix_tokens)
