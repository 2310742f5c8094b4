"""Fewer attention heads: those that add little are left out, with the weights that only they used (as in
https://arxiv.org/abs/1905.10650)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leanformer.edits.edit import Edit, EditReport, edit
from leanformer.edits.sites import BlockSite, pick_blocks
from leanformer.errors import ConfigError, EditError
from leanformer.layers.attention.cross_shaped import CrossShaped
from leanformer.layers.attention.frames import ReducedAttention, SelfAttention
from leanformer.layers.branch import Branch
from leanformer.layers.linear import keep_inputs, keep_outputs
from leanformer.layers.tail import ReadAttention

Mixer = SelfAttention | ReducedAttention | ReadAttention


@edit("drop_heads")
class DropHeads(Edit):
    """Leave out attention heads of blocks: their queries, keys, values, parameters of their own, and their columns of
    the projection.

    The model computes exactly what it would if those heads gave zeros. For kernels whose heads compute apart; a block
    keeps at least one (`RemoveAttention` takes all).
    """

    heads: tuple[tuple[int, tuple[int, ...]], ...]
    """Pairs of a block, counted over all stages from 0, and its heads to drop, counted from 0 among those it has."""

    def __post_init__(self) -> None:
        if not self.heads or any(not dropped or len(set(dropped)) < len(dropped) for _, dropped in self.heads):
            raise ConfigError(f"heads names blocks with heads of theirs, each once, got {self.heads}")

    def apply(self, model: nn.Module) -> EditReport:
        """Drop the heads in place."""
        sites = pick_blocks(model, [block for block, _ in self.heads], "drop_heads")
        cuts = [_plan(site, dropped) for site, (_, dropped) in zip(sites, self.heads, strict=True)]
        before = _count(model)
        for cut in cuts:
            cut.do()
        freed = before - _count(model)
        kept = {str(cut.site.index): sum(len(heads) for _, heads in cut.parts) for cut in cuts}
        which = "; ".join(f"block {block}: {', '.join(map(str, dropped))}" for block, dropped in self.heads)
        dropped = sum(len(heads) for _, heads in self.heads)
        line = f"dropped {dropped} heads ({which}): {freed:,} parameters; the outputs change by what they gave"
        return EditReport(edit=self, lines=(line,), details={"kept": kept, "parameters": freed})


def head_counts(site: BlockSite) -> list[int]:
    """How many heads each mixer of a block has: one mixer, or one for each direction of stripes. Each keeps at least
    one head.

    Raises:
        EditError: naming what does not let heads be dropped.
    """
    return [_check(site, mixer)[1] for mixer in _mixers(site)[1]]


@dataclass(frozen=True)
class _Cut:
    """The heads that each mixer of a block keeps, counted in that mixer."""

    site: BlockSite
    body: nn.Module
    parts: list[tuple[Mixer, list[int]]]

    def do(self) -> None:
        outputs, width = [], 0
        for mixer, heads in self.parts:
            before = mixer.kernel.dim  # type: ignore[union-attr]
            outputs.append(width + _keep(mixer, heads))
            width += before
        if isinstance(self.body, CrossShaped):
            keep_inputs(self.body.proj, torch.cat(outputs))


def _plan(site: BlockSite, dropped: Sequence[int]) -> _Cut:
    """What the block keeps.

    Raises:
        EditError: if its heads do not compute apart, there is no such head, or none would stay.
    """
    body, mixers = _mixers(site)
    parts: list[tuple[Mixer, list[int]]] = []
    start = 0
    for each in mixers:
        mixer, count = _check(site, each)
        parts.append((mixer, [head for head in range(count) if start + head not in dropped]))
        start += count
    for head in dropped:
        if not 0 <= head < start:
            raise EditError(f"drop_heads: block {site.index} ({site.name}) has heads 0 to {start - 1}, not {head}")
    if not any(heads for _, heads in parts):
        raise EditError(
            f"drop_heads: block {site.index} ({site.name}) would lose all its {start} heads; keep one, or take the "
            f"attention out with RemoveAttention(blocks=({site.index},))"
        )
    if not all(heads for _, heads in parts):
        raise EditError(
            f"drop_heads: block {site.index} ({site.name}) would lose all heads of one direction of its stripes; keep "
            f"one among 0 to {start // 2 - 1} and one among {start // 2} to {start - 1}"
        )
    return _Cut(site, body, parts)


def _mixers(site: BlockSite) -> tuple[nn.Module, list[nn.Module]]:
    branch = site.block.attn
    if not isinstance(branch, Branch):
        raise EditError(f"drop_heads: block {site.index} ({site.name}) has no attention any more: it was removed")
    body = branch.body
    return body, list(body.branches) if isinstance(body, CrossShaped) else [body]


def _check(site: BlockSite, mixer: nn.Module) -> tuple[Mixer, int]:
    """A mixer that can lose heads, and how many it has."""
    where = f"drop_heads: {site.name}.attn.body"
    if not isinstance(mixer, Mixer):
        raise EditError(f"{where} is {type(mixer).__name__}, which splits no heads")
    kernel: nn.Module = mixer.kernel  # type: ignore[assignment]
    if not getattr(kernel, "heads_apart", False):
        raise EditError(
            f"{where}.kernel is {type(kernel).__name__}, whose heads depend on each other, so that none can be left "
            "out exactly"
        )
    if kernel.joins_heads and getattr(mixer, "value_position", None) is not None:
        raise EditError(
            f"{where}.kernel is {type(kernel).__name__}, which mixes its heads before the local position of the values "
            "is added, so that none can be left out"
        )
    return mixer, kernel.num_heads  # type: ignore[return-value]


def _keep(mixer: Mixer, heads: list[int]) -> Tensor:
    """Keep these heads of a mixer alone; the result is the channels that they have."""
    kernel = mixer.kernel
    width = kernel.dim  # type: ignore[union-attr]
    channels: Tensor = kernel.keep_heads(heads)  # type: ignore[union-attr, operator]
    if isinstance(mixer, SelfAttention):
        keep_outputs(mixer.qkv, torch.cat([channels, channels + width, channels + 2 * width]))
    else:
        keep_outputs(mixer.q, channels)
        keep_outputs(mixer.kv, torch.cat([channels, channels + width]))
    if not isinstance(mixer, ReadAttention) and mixer.value_position is not None:
        keep_outputs(mixer.value_position, channels, groups=len(channels))
    if mixer.proj is not None:
        keep_inputs(mixer.proj, channels)
    mixer.site = None  # type: ignore[assignment]  # no site describes it any more
    return channels


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
