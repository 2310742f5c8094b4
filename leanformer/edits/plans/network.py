"""A classifier as steps that can be run from the middle, with changes that are tried and leave no trace.

Plans measure many variants of one network that differ in a few blocks. Variants that are equal up to a block share what
leads there: it is computed once for all of them, a batch at a time, so that no feature is kept from batch to batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from leanformer.edits.sites import block_sites
from leanformer.errors import EditError
from leanformer.layers.block import Block, BlockSequence, Stage
from leanformer.layers.site import Grid
from leanformer.models import ImageClassifier

Variant = frozenset[str]
"""The names of the changes that are made at once; empty for the network as it is."""

Output = Literal["logits", "features"]
"""The scores of the classes, or what the classifier reads: normalised and pooled, of two classifiers what the first
reads."""

_State = tuple[Tensor, Grid]


@dataclass(frozen=True, kw_only=True)
class Change:
    """Another module in the place of one, inside a block."""

    name: str
    """In records: a block's number, or `block.head`."""
    block: Block
    owner: nn.Module
    attribute: str
    value: Callable[[tuple[str, ...]], nn.Module | None]
    """What stands there while the changes of these names, all of the same place, are made."""
    group: str = ""
    most: int | None = None
    """Of a group at most so many can be made together; None for any number."""


@dataclass(frozen=True)
class _Step:
    run: Callable[[_State], _State]
    changes: Variant
    """Those that act in it."""
    blocks: int
    """How many there are in it: its share of the work."""


class Network:
    """The variants of an image classifier in eval mode.

    Args:
        model: what `leanformer.load` gives.
        changes: what may be switched on.

    Attributes:
        changes: the names of `changes`, in their order.
        work: blocks run so far, times images.

    Raises:
        EditError: for models whose outputs are not those of their blocks one after another.
    """

    def __init__(self, model: nn.Module, changes: Sequence[Change]) -> None:
        if not isinstance(model, ImageClassifier):
            raise EditError(f"plans choose edits of image classifiers, got {type(model).__name__}")
        self.model = model
        self.changes = tuple(change.name for change in changes)
        self._changes = {change.name: change for change in changes}
        sizes = Counter(change.group for change in changes)
        self._most = {change.group: sizes[change.group] if change.most is None else change.most for change in changes}
        self.num_blocks = len(block_sites(model))
        self.work = 0
        self._steps = [step for stage in model.backbone.stages for step in self._stage_steps(stage)]

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Eval mode and no gradients for a while."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True

    @contextmanager
    def made(self, variant: Collection[str]) -> Iterator[None]:
        """Make the changes of a variant for a while, and take them back whatever happens."""
        places: dict[tuple[int, str], list[Change]] = {}
        for name in self.ordered(variant):
            change = self._changes[name]
            places.setdefault((id(change.owner), change.attribute), []).append(change)
        with ExitStack() as stack:
            for changes in places.values():
                owner, attribute = changes[0].owner, changes[0].attribute
                stack.callback(setattr, owner, attribute, getattr(owner, attribute))
                setattr(owner, attribute, changes[0].value(tuple(change.name for change in changes)))
            yield

    def change(self, name: str) -> Change:
        """The change of that name."""
        return self._changes[name]

    @property
    def capacity(self) -> int:
        """How many changes can be made together."""
        return sum(self._most.values())

    def possible(self, variant: Iterable[str]) -> bool:
        """Whether the changes can be made together."""
        groups = Counter(self._changes[name].group for name in variant)
        return all(count <= self._most[group] for group, count in groups.items())

    def ordered(self, variant: Collection[str]) -> tuple[str, ...]:
        """The names in the order of the changes."""
        return tuple(name for name in self.changes if name in variant)

    def check(self, images: Tensor) -> None:
        """Refuse, before anything is measured, what would be measured wrongly.

        Raises:
            EditError: if the outputs for `images`, (B, 3, H, W), are not finite, or not those of the model itself.
        """
        images = self.to_model(images)
        expected = self.model(images)
        ((_, tokens),) = self.walk(images, [Variant()])
        if not expected.isfinite().all():
            raise EditError("the model's outputs are not finite numbers, so that nothing can be compared")
        if not torch.equal(self.read(tokens, "logits"), expected):
            raise EditError(
                "the model's blocks one after another do not give its outputs, so plans cannot try changes of them; "
                "plan before the edits that tie blocks together"
            )

    def to_model(self, images: Tensor) -> Tensor:
        """Images on the device and in the type of the model."""
        like = next(self.model.parameters())
        return images.to(device=like.device, dtype=like.dtype)

    def walk(self, images: Tensor, variants: Sequence[Variant]) -> Iterator[tuple[Variant, Tensor]]:
        """Each of `variants`, which differ, with the tokens (B, N, C) that its head reads."""
        images = self.to_model(images)
        yield from self._walk(self.model.backbone.embed(images), 0, list(variants))

    def read(self, tokens: Tensor, output: Output) -> Tensor:
        """Scores (B, num_classes) or features (B, C) of the tokens that the head reads."""
        head = self.model.head
        pooled = head.read(head.normalize(tokens))
        return head.classify(*pooled) if output == "logits" else pooled[0]  # type: ignore[return-value]

    def _walk(self, state: _State, start: int, variants: list[Variant]) -> Iterator[tuple[Variant, Tensor]]:
        for number in range(start, len(self._steps)):
            step = self._steps[number]
            groups: dict[Variant, list[Variant]] = {}
            for variant in variants:
                groups.setdefault(variant & step.changes, []).append(variant)
            *leaving, (made, variants) = sorted(groups.items(), key=lambda group: len(group[1]))
            for other, group in leaving:
                yield from self._walk(self._run(step, state, other), number + 1, group)
            state = self._run(step, state, made)
        (variant,) = variants
        yield variant, state[0]

    def _run(self, step: _Step, state: _State, made: Variant) -> _State:
        self.work += step.blocks * len(state[0])
        with self.made(made):
            return step.run(state)

    def _stage_steps(self, stage: nn.Module) -> Iterator[_Step]:
        assert isinstance(stage, Stage)
        yield _Step(lambda state: stage.enter(*state), Variant(), 0)
        if type(stage.blocks) is BlockSequence:
            for block in stage.blocks:
                yield self._step([block], lambda state, block=block: (stage.blocks.run(block, *state), state[1]))
        else:  # blocks that share more than their tokens run together
            yield self._step(stage.blocks, lambda state: (stage.blocks(*state), state[1]))
        norm = stage.norm
        if norm is not None:
            yield _Step(lambda state: (norm(state[0]), state[1]), Variant(), 0)

    def _step(self, blocks: Iterable[nn.Module], run: Callable[[_State], _State]) -> _Step:
        counted = [block for block in blocks if isinstance(block, Block)]
        inside = {id(block) for block in counted}
        names = Variant(name for name, change in self._changes.items() if id(change.block) in inside)
        return _Step(run, names, len(counted))
