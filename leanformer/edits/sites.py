"""Where edits find blocks: every `Block` of a model in running order, so that `blocks=(...)` means the same in all
edits and on all backbones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from leanformer.errors import EditError
from leanformer.layers.block import Block, BlockSequence


@dataclass(frozen=True)
class BlockSite:
    """One block and its place in a model."""

    index: int
    """Counts the blocks of all stages in running order, from 0."""
    name: str
    """Dotted name in the model, such as `backbone.stages.0.blocks.3`."""
    block: Block
    sequence: BlockSequence
    place: int
    """Position in `sequence`, in which a SwiftFormer has other modules as well."""


def block_sites(model: nn.Module) -> list[BlockSite]:
    """The blocks of a model or of a backbone in running order; what is no `Block` (a SwiftFormer's convolutional
    encoders) is not counted."""
    sites: list[BlockSite] = []
    for prefix, sequence in model.named_modules():
        if not isinstance(sequence, BlockSequence):
            continue
        for place, block in enumerate(sequence):
            if isinstance(block, Block):
                name = f"{prefix}.{place}" if prefix else str(place)
                sites.append(BlockSite(len(sites), name, block, sequence, place))
    return sites


def pick_blocks(model: nn.Module, indices: Sequence[int], what: str) -> list[BlockSite]:
    """The blocks that `indices` number, in the order of `indices`.

    Args:
        what: who asks, for the error's text: an edit's kind.

    Raises:
        EditError: if the model has no blocks, or `indices` is empty, names one twice or one that is not there.
    """
    sites = block_sites(model)
    if not sites:
        raise EditError(f"{what}: {type(model).__name__} has no transformer blocks")
    known = f"this model has blocks 0 to {len(sites) - 1}"
    if not indices:
        raise EditError(f"{what}: blocks names none; {known}")
    for index in indices:
        if not 0 <= index < len(sites):
            raise EditError(f"{what}: there is no block {index}; {known}")
        if list(indices).count(index) > 1:
            raise EditError(f"{what}: block {index} is named twice in {tuple(indices)}")
    return [sites[index] for index in indices]
