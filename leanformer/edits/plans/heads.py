"""Which attention heads to drop: by what they add to the tokens, or by what the network loses without them."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from leanformer.edits.heads import DropHeads, head_counts
from leanformer.edits.plans.calibration import Calibration
from leanformer.edits.plans.network import Change, Network, Variant
from leanformer.edits.plans.plan import Plan, count_of, run_search
from leanformer.edits.plans.scores import CalibratedScore, Figures, Score, Tick
from leanformer.edits.plans.search import Alone, Known, Progress, Search
from leanformer.edits.sites import BlockSite, block_sites
from leanformer.errors import EditError
from leanformer.layers.block import Block, BlockSequence
from leanformer.layers.branch import Branch

_See = Callable[[list[Change], nn.Module, tuple[Any, ...], Any], None]
"""Told the changes of a branch, the branch, its inputs and its result, (B, N, C)."""


class HeadNorm(CalibratedScore):
    """How much heads add to the tokens: the length of what a head gives behind the projection, over that of the tokens
    behind the attention, means over tokens and images; of several heads the sum.

    The length is that of https://arxiv.org/abs/2004.10102, which shows that attention weights alone tell little: a head
    may look hard at tokens whose values are small. Neither labels nor gradients are needed, and one sweep is enough.

    Args:
        batches: gives the batches of images (B, 3, H, W) anew at each call, the same ones each time.
    """

    name: ClassVar[str] = "norm of heads"
    unit: ClassVar[str] = "of the tokens' norm"

    def __init__(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        super().__init__(Calibration(batches, labeled=False))

    def measure(self, network: Network, variants: Sequence[Variant], tick: Tick) -> dict[Variant, Figures]:
        """The norm of each variant's heads."""
        heads, tokens = dict.fromkeys(network.changes, 0.0), dict.fromkeys(network.changes, 0.0)

        def see(changes: list[Change], branch: nn.Module, inputs: tuple[Any, ...], after: Tensor) -> None:
            assert isinstance(branch, Branch)
            x, grid = inputs[:2]
            whole = branch.update(x, grid)
            for change in changes:
                given = whole - branch.update(x, grid, change.value((change.name,)))
                heads[change.name] += given.double().norm(dim=-1).sum().item()
                tokens[change.name] += after.double().norm(dim=-1).sum().item()

        done = 0
        with _watching(network, see):
            for images, _ in self.calibration.read():
                for _ in network.walk(images, [Variant()]):
                    done += len(images)
                    tick(done, self.calibration.num_images)
        return {variant: {"norm": sum(heads[name] / tokens[name] for name in variant)} for variant in variants}

    def worth(self, figures: Figures, full: Figures) -> tuple[float, ...]:
        """The norm."""
        return (figures["norm"],)


def plan_head_removal(
    model: nn.Module,
    score: Score | None = None,
    *,
    ratio: float | None = None,
    num_heads: int | None = None,
    search: Search | None = None,
    known: Known | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Plan:
    """Choose attention heads of an image classifier to drop; it stays as it is.

    Heads count where `DropHeads` can leave them out exactly; each block keeps one at least, of stripes each direction.
    What is tried is what the edit makes.

    Args:
        score: `HeadNorm(batches)`, or what the network loses: `TransferEntropy`, `AccuracyDrop`; None for a search
            that needs no data.
        ratio: share of those heads, rounded to whole ones.
        num_heads: their number, in place of `ratio`.
        search: `Alone()` if None, as published (https://arxiv.org/abs/1905.10650, section 4).
        known: figures to start from; filled with all that is measured. JSON.
        progress: called after each batch.

    Raises:
        EditError: for models without heads that can be dropped, naming why the first cannot.
        ConfigError: for a ratio or number out of range, or too many choices for `Exhaustive`.
        DataError: without images, with too few, or with other ones from sweep to sweep.
    """
    network = Network(model, _head_changes(model))
    count = count_of(ratio, num_heads, len(network.changes), "heads that can be dropped", network.capacity)
    return run_search(
        network,
        score,
        search or Alone(),
        count,
        what="without heads",
        make=_drop,
        asked={"ratio": ratio, "num_heads": count},
        known=known,
        progress=progress,
    )


def _drop(names: tuple[str, ...]) -> DropHeads:
    heads: dict[int, list[int]] = defaultdict(list)
    for name in names:
        block, head = map(int, name.split("."))
        heads[block].append(head)
    return DropHeads(heads=tuple((block, tuple(dropped)) for block, dropped in heads.items()))


def _head_changes(model: nn.Module) -> list[Change]:
    found: list[Change] = []
    refusal = f"drop_heads: {type(model).__name__} has no block with attention"
    for site in block_sites(model):
        if not isinstance(site.block.attn, Branch):
            continue
        try:
            found += _changes_of(site)
        except EditError as error:
            refusal = refusal if found else str(error)
    if not found:
        raise EditError(refusal)
    if not any(change.most for change in found):
        raise EditError(f"drop_heads: every block of this {type(model).__name__} has a single head, and keeps it")
    return [change for change in found if change.most]


def _changes_of(site: BlockSite) -> Iterator[Change]:
    branch: Branch = site.block.attn  # type: ignore[assignment]
    body, head = branch.body, 0
    for mixer, count in enumerate(head_counts(site)):
        for _ in range(count):
            yield Change(
                name=f"{site.index}.{head}",
                block=site.block,
                owner=branch,
                attribute="body",
                value=partial(_without, body),
                group=f"{site.index}.{mixer}",
                most=count - 1,
            )
            head += 1


def _without(body: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """A copy of an attention without heads, by the edit itself."""
    block = Block(attn=Branch(copy.deepcopy(body)), mlp=nn.Identity())
    heads = tuple(int(name.split(".")[1]) for name in names)
    DropHeads(heads=((0, heads),)).apply(BlockSequence([block]))
    return block.attn.body.eval()  # type: ignore[union-attr, operator, return-value]


def _watching(network: Network, see: _See) -> ExitStack:
    """Call `see` whenever a branch with changes runs."""
    by_branch: dict[nn.Module, list[Change]] = defaultdict(list)
    for name in network.changes:
        change = network.change(name)
        by_branch[change.owner].append(change)
    stack = ExitStack()
    for branch, changes in by_branch.items():
        stack.callback(branch.register_forward_hook(partial(see, changes)).remove)
    return stack
