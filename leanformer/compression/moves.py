"""What a search tries: norms that fold away, how many attention layers and heads go, how many tokens are merged, and
what costs nothing."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import product

from leanformer import edits
from leanformer.bench import Cost, count_cost
from leanformer.compression.chain import Tell, check_exact
from leanformer.compression.choosing import GREEDY, NEEDS_DATA, Chooser
from leanformer.compression.figures import Meter
from leanformer.compression.memory import Memory
from leanformer.compression.steps import Amount
from leanformer.config import to_dict
from leanformer.edits import (
    ClassTokenTail,
    DropHeads,
    Edit,
    FoldNorms,
    FuseLinear,
    MergeTokens,
    RemoveAttention,
    SwapNorm,
    sites,
)
from leanformer.edits.norm_sites import find_norms, is_affine, is_folded
from leanformer.edits.plans import Plan, Trial
from leanformer.errors import ConfigError, EditError, LeanformerError
from leanformer.layers.norm import Place
from leanformer.models import ImageClassifier
from leanformer.models.vit import ViT
from leanformer.training.callbacks import scheduled_modules

log = logging.getLogger(__name__)

HEAD_SHARES = (0.25, 0.5)
MERGED_SHARES = (0.25, 0.5, 0.75, 0.9)
"""Of the tokens, gone behind the last block."""
MOST_REMOVALS = 8
"""Numbers of removed layers that are tried, evenly spread up to all of them."""


@dataclass(frozen=True)
class Candidate:
    """Changes that may be made together, in this order."""

    changes: tuple[Edit, ...]

    @cached_property
    def key(self) -> str:
        """What tells it from others."""
        return json.dumps([to_dict(change) for change in self.changes], sort_keys=True)

    @property
    def name(self) -> str:
        """What people call it."""
        return " + ".join(map(_called, self.changes)) or "exact edits alone"

    @property
    def swaps_norms(self) -> bool:
        """Whether it has norms that know nothing of the data yet, so that it is of no use before it is trained."""
        return any(isinstance(change, SwapNorm) for change in self.changes)

    def built(self, original: ImageClassifier, exact: tuple[Edit, ...]) -> ImageClassifier:
        """A copy of the original with the changes, and what is exact."""
        model = copy.deepcopy(original)
        edits.apply(model, *self.changes)
        for norm in scheduled_modules(model).get("norm_progress", []):
            norm.set_scheduled(0.0)  # type: ignore[operator]  # as training leaves it
        return self.finished(model, exact)

    def finished(self, model: ImageClassifier, exact: tuple[Edit, ...]) -> ImageClassifier:
        """A model that has the changes, with every exact edit that can still be made."""
        for edit in (FoldNorms(), *exact) if self.swaps_norms else exact:
            try:
                edits.apply(model, edit)
            except EditError as error:
                log.debug("%s", error)
        return model.eval()


def exact_edits(original: ImageClassifier, meter: Meter, memory: Memory, tell: Tell) -> tuple[Edit, ...]:
    """The edits that keep the outputs, can be applied to the original, and do not make it slower. A search that goes on
    finds the same, for its candidates were measured with them."""
    model: ImageClassifier = original
    kept: list[Edit] = []
    for edit in (FoldNorms(), FuseLinear(), ClassTokenTail()):
        candidate = copy.deepcopy(model)
        try:
            edits.apply(candidate, edit)
        except EditError as error:
            log.debug("%s", error)
            continue
        check_exact(edit, candidate, model, meter)
        key = f"exact {Candidate((*kept, edit)).key}"
        gain = memory.latency(key, lambda after=candidate, before=model: meter.latency(after, before)).over_previous
        tell(f"{edit.kind}: {gain.verdict}, {gain}" + ("; left out" if gain.verdict == "slower" else ""))
        if gain.verdict != "slower":
            model = candidate
            kept.append(edit)
    return tuple(kept)


def candidates(
    model: ImageClassifier, chooser: Chooser, tell: Tell, *, trainable: bool, slower: Callable[[Candidate], bool]
) -> Iterator[Candidate]:
    """All combinations that the model takes; the first changes nothing but what is exact.

    Args:
        trainable: whether what has to be trained is wanted.
        slower: whether a candidate slows the model; what does alone is in no combination.
    """
    cost = cache(partial(_cost, model))
    parts: list[tuple[Edit | None, ...]] = []
    for found in (
        _norm_swaps(model) if trainable else [],
        _head_drops(model, chooser, tell),
        _removals(model, chooser, tell),
        _merges(model),
    ):
        losing = [change for change in found if slower(Candidate((change,)))]
        if losing:
            tell(f"left out, as each of them alone makes the model slower: {', '.join(map(_called, losing))}")
        parts.append((None, *(change for change in found if change not in losing)))
    for combination in product(*parts):
        changes = tuple(change for change in combination if change is not None)
        if _each_counts(changes, cost):
            yield Candidate(changes)


def _each_counts(changes: tuple[Edit, ...], cost: Callable[[tuple[Edit, ...]], Cost | None]) -> bool:
    """Whether the model takes the changes together and no change is undone by another: heads that are dropped from
    attention that is removed leave a model that another candidate is already."""
    whole = cost(changes)
    if whole is None or len(changes) < 2:
        return whole is not None
    return all(cost(changes[:index] + changes[index + 1 :]) != whole for index in range(len(changes)))


def _fits(model: ImageClassifier, changes: tuple[Edit, ...]) -> bool:
    return _cost(model, changes) is not None


def _cost(model: ImageClassifier, changes: tuple[Edit, ...]) -> Cost | None:
    """What the model costs with the changes; None if it does not take them together."""
    changed = copy.deepcopy(model)
    try:
        edits.apply(changed, *changes)
    except EditError as error:
        log.debug("%s", error)
        return None
    return count_cost(changed, model.config.image_grid)


def _norm_swaps(model: ImageClassifier) -> list[SwapNorm]:
    """Norms that fold away, in the places of those that do not."""
    lasting = [item for item in find_norms(model) if not is_affine(item.norm) and not is_folded(item.norm)]
    places: list[Place] = [item.site.place for item in lasting if item.site.place is not None]
    where: tuple[Place, ...] = tuple(dict.fromkeys(places))
    swaps = [SwapNorm(where=where)] if where else []
    return [swap for swap in swaps if _fits(model, (swap,))]


def _removals(model: ImageClassifier, chooser: Chooser, tell: Tell) -> list[RemoveAttention]:
    """Nested sets of layers, as a greedy plan adds one after another; a class token keeps one, to see the image."""
    try:
        plan = chooser.choose(model, Amount(kind="remove_attention", share=1.0))
    except EditError as error:
        tell(str(error))
        return []
    most = len(plan.changes) - (isinstance(model.config, ViT) and model.config.pool == "token")
    step = max(1, -(-most // MOST_REMOVALS))
    sizes = sorted({*range(step, most + 1, step), most} - {0})
    if chooser.way not in GREEDY:
        return [edit for size in sizes for edit in _chosen(model, chooser, size, tell)]
    order = nested_order(plan)
    tell(f"attention layers in the order in which they may go: {', '.join(order)}")
    return [_first_of(plan.edit, order, size) for size in sizes]


def nested_order(plan: Plan) -> list[str]:
    """What a greedy plan that chose everything took first, second, and so on."""
    rounds: dict[int, Trial] = {}
    for trial in plan.trials:
        best = rounds.get(trial.round)
        if best is None or trial.rank < best.rank:
            rounds[trial.round] = trial
    order: list[str] = []
    for number in sorted(rounds):
        order += [name for name in rounds[number].changes if name not in order]
    return order


def _chosen(model: ImageClassifier, chooser: Chooser, size: int, tell: Tell) -> list[RemoveAttention]:
    """The choice of so many layers; none where there are too many to try them all."""
    try:
        edit = chooser.choose(model, Amount(kind="remove_attention", count=size)).edit
    except ConfigError as error:
        tell(str(error))
        return []
    assert isinstance(edit, RemoveAttention)
    tell(f"attention layers of which {size} may go: {', '.join(map(str, edit.blocks))}")
    return [edit]


def _first_of(edit: Edit, order: list[str], size: int) -> RemoveAttention:
    assert isinstance(edit, RemoveAttention)
    return replace(edit, blocks=tuple(sorted(map(int, order[:size]))))


def _head_drops(model: ImageClassifier, chooser: Chooser, tell: Tell) -> list[DropHeads]:
    found: list[DropHeads] = []
    if chooser.way not in NEEDS_DATA:
        return found
    for share in HEAD_SHARES:
        try:
            plan = chooser.choose(model, Amount(kind="drop_heads", share=share))
        except LeanformerError as error:
            tell(str(error))
            break
        assert isinstance(plan.edit, DropHeads)
        found.append(plan.edit)
    return found


def _merges(model: ImageClassifier) -> list[MergeTokens]:
    """Merging that leaves given shares of the tokens behind the last block."""
    num_tokens = model.config.image_grid[0] * model.config.image_grid[1] // model.backbone.feature_info[-1].stride ** 2
    num_blocks = len(sites.block_sites(model))
    found: list[MergeTokens] = []
    for share in MERGED_SHARES:
        r = round(share * num_tokens / max(num_blocks, 1))
        if r and _fits(model, (MergeTokens(r=r),)):
            found.append(MergeTokens(r=r))
    return found


def _called(change: Edit) -> str:
    if isinstance(change, RemoveAttention):
        return f"attention of {','.join(map(str, change.blocks))} removed"
    if isinstance(change, MergeTokens):
        return f"{change.r} tokens merged a block"
    if isinstance(change, DropHeads):
        return f"{sum(len(heads) for _, heads in change.heads)} heads dropped"
    if isinstance(change, SwapNorm):
        return f"{type(change.to).__name__}, folded"
    return change.kind
