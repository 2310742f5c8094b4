"""Edits that leave fewer tokens to compute: merging similar ones ("Token Merging: Your ViT But Faster",
https://arxiv.org/abs/2210.09461)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from torch import Tensor, nn

from leanformer import ops
from leanformer.edits.edit import Edit, EditReport, edit
from leanformer.edits.sites import BlockSite, block_sites
from leanformer.errors import EditError
from leanformer.layers.attention.cross_shaped import CrossShaped
from leanformer.layers.attention.frames import ReducedAttention, SelfAttention
from leanformer.layers.attention.softmax import SoftmaxKernel
from leanformer.layers.block import Block, Stage
from leanformer.layers.branch import Branch
from leanformer.layers.merging import MergedTokens, MergingSequence
from leanformer.layers.mlp import MLP
from leanformer.layers.tail import FirstTokens, ReadAttention
from leanformer.models import ImageClassifier
from leanformer.models.backbone import Backbone

MergeSchedule = int | tuple[int, float] | tuple[int, ...]
"""How many tokens are merged: the same number in each block, (mean, inflection) with a float, or one for each block."""


@edit("merge_tokens")
class MergeTokens(Edit):
    """Merge the most similar tokens between attention and MLP, so that what follows computes fewer.

    The tokens in front of the map (class, distillation, registers) are never merged. What comes out of the blocks has
    every place of the map again, with the token of its group: so a mean over the map weighs tokens by their sizes, as
    published, and maps for dense tasks have their full grid. No weight changes. `r=0` changes nothing.

    Needs softmax attention over the whole map without a relative position in each block from the first that merges on;
    blocks without attention let merged tokens pass.
    """

    r: MergeSchedule
    """Tokens to merge in each block that merges, at most half of those that can be: one number for all; `(13, -1.0)`
    for a number that falls linearly from 26 to 0, 13 on average (1.0: it grows from 0 to 26, 0.0: it stays 13); or one
    for each block that merges, zero for those left out. An inflection is written as a float."""
    start: int = 0
    """Blocks with attention that stay as they are before the first that merges."""
    proportional: bool = True
    """Whether a token counts in softmax as often as the places that it stands for."""

    def __post_init__(self) -> None:
        if self.start < 0:
            raise EditError(f"{self.kind}: start must be at least 0, got {self.start}")
        numbers = self.r if isinstance(self.r, tuple) else (self.r,)
        if _is_inflected(self.r):
            numbers = self.r[:1]
            if not -1.0 <= self.r[1] <= 1.0:
                raise EditError(f"{self.kind}: the inflection must be from -1.0 to 1.0, got {self.r[1]}")
        if not numbers or min(numbers) < 0:
            raise EditError(
                f"{self.kind}: r is 0 or more tokens in each block, got {self.r}; an inflection is a float, as in "
                "(13, -1.0)"
            )

    def apply(self, model: nn.Module) -> EditReport:
        """Replace the sequences of blocks in place."""
        places = _find(model, self.start, self.kind)
        self._check_fits(places[0])
        amounts = self._amounts(places)
        lines, blocks = [], {}
        for place in places:
            sequence = place.replace(amounts, self.proportional)
            merged = sequence.num_merged(place.num_tokens)
            blocks |= {site.index: merged[site.place] for site in place.sites}
            left, busy = place.num_tokens - sum(merged), sum(number > 0 for number in merged)
            lines.append(f"{place.name}: {place.num_tokens} tokens become {left}, in {busy} block{'s' * (busy != 1)}")
        return EditReport(edit=self, lines=tuple(lines), details={"merged": blocks})

    def replay(self, model: nn.Module) -> None:
        """Replace the sequences of blocks, whatever the size of the images."""
        places = _find(model, self.start, self.kind)
        amounts = self._amounts(places)
        for place in places:
            place.replace(amounts, self.proportional)

    def _amounts(self, places: list[_Place]) -> dict[int, int]:
        """Tokens to merge by the number of the block."""
        blocks = [site.index for place in places for site in place.merging]
        if isinstance(self.r, tuple) and not _is_inflected(self.r) and len(self.r) > len(blocks):
            raise EditError(
                f"{self.kind}: r names {len(self.r)} numbers, but {len(blocks)} blocks have attention to merge behind "
                f"(start={self.start})"
            )
        return dict(zip(blocks, merge_amounts(self.r, len(blocks)), strict=True))

    def _check_fits(self, place: _Place) -> None:
        """Refuse a number for all blocks that the first of them cannot merge, if it can be known."""
        r = self.r[0] if _is_inflected(self.r) else self.r
        most = ops.merge_amount(place.num_tokens, place.num_tokens, place.prefix_tokens)
        if isinstance(r, int) and r > most:
            raise EditError(
                f"{self.kind}: r={r} is more than half of the {place.num_tokens - place.prefix_tokens} tokens that "
                f"{place.merging[0].name} has to merge; at most {most} fit. Numbers for each block, such as "
                f"r=({r}, {r}), merge as many as there are"
            )


def trace_tokens(model: ImageClassifier, images: Tensor) -> list[MergedTokens]:
    """What is merged of these images, (B, 3, H, W): behind each block of the stages that merge the tokens, the places
    that each stands for, and the token of each place, those in front of the map first.

    Raises:
        EditError: if the model merges no tokens.
    """
    ends: list[MergedTokens] = []
    x, grid = model.backbone.embed(images)
    for stage in model.backbone.stages:
        assert isinstance(stage, Stage)
        if isinstance(stage.blocks, MergingSequence):
            ends += stage.blocks.merged_ends(*stage.enter(x, grid))
        x, grid = stage(x, grid)
    if not ends:
        raise EditError(f"{model.name or type(model).__name__} merges no tokens; apply MergeTokens first")
    return ends


def merge_amounts(r: MergeSchedule, count: int) -> tuple[int, ...]:
    """How many tokens each of `count` blocks merges by the schedule `r`."""
    if isinstance(r, int):
        return (r,) * count
    if not _is_inflected(r):
        return (*(int(number) for number in r), *(0,) * (count - len(r)))
    least = int(r[0] * (1 - r[1]))
    span = 2 * (r[0] - least)
    return tuple(int(least + index * span / max(count - 1, 1)) for index in range(count))


def _is_inflected(r: MergeSchedule) -> TypeGuard[tuple[int, float]]:
    return isinstance(r, tuple) and len(r) == 2 and isinstance(r[1], float)


@dataclass(frozen=True)
class _Place:
    """A stage with blocks that are to merge."""

    name: str
    stage: Stage
    sites: list[BlockSite]
    merging: list[BlockSite]
    prefix_tokens: int
    num_tokens: int
    """Of images of the size that the model was built for, prefix included."""

    def replace(self, amounts: dict[int, int], proportional: bool) -> MergingSequence:
        """Put the merging sequence in place."""
        old = self.stage.blocks
        by_place = {site.place: amounts.get(site.index, 0) for site in self.sites}
        numbers = [by_place.get(place, 0) for place in range(len(old))]
        new = MergingSequence(old, numbers, self.prefix_tokens, proportional).train(old.training)
        new.checkpointing = old.checkpointing
        self.stage.blocks = new
        return new


def _find(model: nn.Module, start: int, what: str) -> list[_Place]:
    """The stages with blocks that are to merge, in order.

    Raises:
        EditError: naming the first module that cannot run on merged tokens.
    """
    sites = block_sites(model)
    attending = [site for site in sites if isinstance(site.block.attn, Branch)]
    if not attending:
        raise EditError(f"{what}: {type(model).__name__} has no attention, whose keys tell which tokens are alike")
    if start >= len(attending):
        raise EditError(f"{what}: start={start} leaves no block to merge in; {len(attending)} blocks have attention")
    backbone = next((module for module in model.modules() if isinstance(module, Backbone)), None)
    config = getattr(model, "config", None)
    if backbone is None or config is None:
        raise EditError(f"{what}: {type(model).__name__} is no image classifier; edit one, then take its backbone")
    names = {module: name for name, module in model.named_modules()}
    places = []
    for stage, (height, width) in zip(backbone.stages, backbone.feature_grids(config.image_grid), strict=True):
        assert isinstance(stage, Stage)
        name = names[stage.blocks]
        here = [site for site in sites if site.sequence is stage.blocks]
        merging = [site for site in attending[start:] if site in here]
        if merging:
            _check_stage(stage, merging[0].place, name, what)
            prefix = getattr(backbone, "prefix_tokens", 0) + int(stage.class_token is not None)
            places.append(_Place(name, stage, here, merging, prefix, prefix + height * width))
    return places


def _check_stage(stage: Stage, first: int, name: str, what: str) -> None:
    """Refuse a stage that merges already, or with a block from `first` on that cannot run on merged tokens."""
    if isinstance(stage.blocks, MergingSequence):
        raise EditError(f"{what}: {name} merges tokens already")
    for place, block in enumerate(stage.blocks):
        refusal = _refusal(block) if place >= first else None
        if refusal is not None:
            part, why = refusal
            raise EditError(
                f"{what}: {name}.{place}{part} {why}; a larger start leaves the blocks in front as they are"
            )


def _refusal(block: nn.Module) -> tuple[str, str] | None:
    """Which part of a block needs the whole map, and why."""
    if not isinstance(block, Block):
        return "", f"({type(block).__name__}) works on the map, where merged tokens have no place"
    for slot in ("position", "local", "mlp_position"):
        part = getattr(block, slot)
        if part is not None and not isinstance(part, FirstTokens):
            return f".{slot}", "works on the map, where merged tokens have no place"
    if not isinstance(block.mlp, Branch) or type(block.mlp.body) is not MLP:
        return ".mlp.body", "is more than an MLP on each token: merged tokens have no place on the map"
    if not isinstance(block.attn, Branch):
        return None
    if block.attn.region is not None:
        return ".attn.region", "looks in windows of the map, where merged tokens have no place"
    return _mixer_refusal(block.attn.body)


def _mixer_refusal(mixer: nn.Module) -> tuple[str, str] | None:
    if isinstance(mixer, ReadAttention):
        return None
    if isinstance(mixer, CrossShaped):
        return ".attn.body", "looks in stripes of the map, where merged tokens have no place"
    if isinstance(mixer, ReducedAttention):
        if mixer.reduce is None:
            return ".attn.body", "projects keys apart from queries; fuse_linear joins them"
        return ".attn.body", "takes its keys from a reduced map, where merged tokens have no place"
    if not isinstance(mixer, SelfAttention) or not isinstance(mixer.kernel, SoftmaxKernel):
        described = mixer.describe() if hasattr(mixer, "describe") else type(mixer).__name__  # type: ignore[operator]
        return ".attn.body", f"is {described}, not softmax attention, in which a token can count as often as its size"
    if mixer.kernel.bias is not None:
        return ".attn.body.kernel.bias", "is a relative position, which merged tokens do not have"
    if mixer.value_position is not None:
        return ".attn.body.value_position", "works on the map, where merged tokens have no place"
    return None
