"""Another attention for a trained model, with the projections of the old one where they fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from leanformer.edits.carry import Carried, carry
from leanformer.edits.edit import Edit, EditReport, edit
from leanformer.edits.sites import BlockSite, block_sites, pick_blocks
from leanformer.errors import ConfigError, EditError
from leanformer.layers.attention import AttentionConfig
from leanformer.layers.attention.cross_shaped import CrossShaped
from leanformer.layers.branch import Branch
from leanformer.layers.init import trunc_normal_linears
from leanformer.layers.merging import MergingSequence
from leanformer.layers.site import Site


@edit("swap_attention")
class SwapAttention(Edit):
    """Build another attention where blocks had theirs, and carry over what fits: the rows of queries, keys and values,
    the projection of the result, local positions, reductions, and parameters that both kernels have.

    The model computes something else from then on and needs training; the report says name by name what is new.
    Windows that shift with a mask stand still for an attention that takes none, as a config would build them.
    """

    to: AttentionConfig
    blocks: tuple[int, ...] | None = None
    """Counted over all stages, from 0; None for all that have another attention."""
    whole_map: bool = False
    """Look at the whole map in place of windows, as the linear attention of FLatten and SLAB does in the first stages
    of Swin."""
    seed: int = 0
    """Of the random values of what is new."""

    def apply(self, model: nn.Module) -> EditReport:
        """Swap in place."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            swaps = [swap for site in self._sites(model) for swap in self._plan(site)]
        stilled = [swap.site.index for swap in swaps if self._settle(swap)]
        lines = [*_lines(swaps)]
        if stilled:
            lines.append(f"the windows of {_named(stilled)} no longer shift: the new attention takes no mask")
        details = {
            "blocks": sorted({swap.site.index for swap in swaps}),
            "carried": {swap.name: list(swap.carried.names) for swap in swaps},
            "new": {swap.name: list(swap.carried.new) for swap in swaps},
            "left_out": {swap.name: list(swap.carried.left_out) for swap in swaps},
        }
        return EditReport(edit=self, lines=tuple(lines), details=details)

    def _sites(self, model: nn.Module) -> list[BlockSite]:
        if self.blocks is not None:
            return pick_blocks(model, self.blocks, "swap_attention")
        sites = [site for site in block_sites(model) if isinstance(site.block.attn, Branch)]
        if not sites:
            raise EditError(f"swap_attention: {type(model).__name__} has no attention")
        return [site for site in sites if any(self._changes(site, old) for _, _, old in _mixers(site))] or sites

    def _changes(self, site: BlockSite, old: nn.Module) -> bool:
        return old.attention != self.to or (self.whole_map and _branch(site).region is not None)

    def _plan(self, site: BlockSite) -> list[_Swap]:
        """The new mixers of one block, with all that is carried over.

        Raises:
            EditError: if the attention cannot work there, or is there already.
        """
        _refuse_merging(site)
        branch = _branch(site)
        if self.whole_map and isinstance(branch.body, CrossShaped) and branch.body.stripes:
            raise EditError(
                f"swap_attention: {site.name} has a mixer for each direction of its stripes, and one alone can look at "
                "the whole map; leave whole_map out, or build the model with split_size None there"
            )
        swaps = []
        for owner, attribute, old in _mixers(site):
            if not self._changes(site, old):
                raise EditError(f"swap_attention: block {site.index} ({site.name}) has {self.to} already")
            new = self._build(site, old)
            carried = carry(old, new)
            name = f"{site.name}.attn.body" + ("" if owner is branch else f".branches.{attribute}")
            swaps.append(_Swap(site, owner, attribute, name, new.train(old.training), carried))
        return swaps

    def _build(self, site: BlockSite, old: nn.Module) -> nn.Module:
        place: Site = old.site  # type: ignore[assignment]
        region = _branch(site).region
        if self.whole_map and region is not None:
            place = replace(place, grid=region.grid)
        try:
            new = self.to.build(place)
        except ConfigError as error:
            raise EditError(f"swap_attention: {site.name} cannot have {self.to.kind}: {error}") from error
        assert isinstance(new, nn.Module)
        trunc_normal_linears(new)
        return new.to(next(old.parameters()).device)

    def _settle(self, swap: _Swap) -> bool:
        """Put the new mixer in place; whether its windows shifted until now."""
        swap.owner.add_module(swap.attribute, swap.new)
        branch = _branch(swap.site)
        if self.whole_map:
            branch.region = None
        if branch.region is None:
            return False
        shift = branch.region.shift
        branch.region.serve(self.to.takes_mask)
        return branch.region.shift != shift


@dataclass(frozen=True)
class _Swap:
    site: BlockSite
    owner: nn.Module
    attribute: str
    name: str
    new: nn.Module
    carried: Carried


def _branch(site: BlockSite) -> Branch:
    branch = site.block.attn
    if not isinstance(branch, Branch):
        raise EditError(f"swap_attention: block {site.index} ({site.name}) has no attention any more: it was removed")
    return branch


def _refuse_merging(site: BlockSite) -> None:
    if isinstance(site.sequence, MergingSequence):
        raise EditError(
            f"swap_attention: {site.name} is in a sequence that merges tokens by the keys of its attentions; swap "
            "attentions before merge_tokens"
        )


def _mixers(site: BlockSite) -> list[tuple[nn.Module, str, nn.Module]]:
    """The mixers of a block, each with its owner and its name there."""
    branch = _branch(site)
    places: list[tuple[nn.Module, str, nn.Module]] = [(branch, "body", branch.body)]
    if isinstance(branch.body, CrossShaped):
        places = [(branch.body.branches, str(i), mixer) for i, mixer in enumerate(branch.body.branches)]
    for _, _, mixer in places:
        if getattr(mixer, "site", None) is None:
            raise EditError(
                f"swap_attention: the attention of {site.name} is not what a config built: heads were dropped from it, "
                "its layers were fused, or it was made by hand; swap attentions before other edits of their layers"
            )
    return places


def _lines(swaps: list[_Swap]) -> list[str]:
    blocks = sorted({swap.site.index for swap in swaps})
    lines = [f"swapped the attention of {_named(blocks)} for {swaps[0].new.describe()}: train the model"]  # type: ignore[operator]
    for carried in dict.fromkeys(swap.carried for swap in swaps):
        where = _named(sorted({swap.site.index for swap in swaps if swap.carried == carried}))
        parts = (("carried", carried.names), ("new", carried.new), ("left out", carried.left_out))
        lines.append(f"{where}: " + "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names))
    return lines


def _named(blocks: list[int]) -> str:
    return f"block{'s' if len(blocks) > 1 else ''} {', '.join(map(str, blocks))}"
