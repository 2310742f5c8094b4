"""Blocks between whose attention and MLP similar tokens become one ("Token Merging: Your ViT But Faster",
https://arxiv.org/abs/2210.09461)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor, nn

from leanformer import ops
from leanformer.layers.attention.softmax import SoftmaxKernel
from leanformer.layers.block import Block, BlockSequence
from leanformer.layers.branch import Branch, DilutedBranch
from leanformer.layers.site import Grid
from leanformer.layers.tail import ReadBranch


class MergedTokens(NamedTuple):
    """Tokens of which some stand for several places."""

    x: Tensor
    """(B, count, C)."""
    sizes: Tensor | None
    """Places that each token stands for, (B, count) in float32; None before the first merging."""
    index: Tensor | None
    """The token of each place, (B, N); None before the first merging."""

    def restored(self) -> Tensor:
        """Every place with its token, (B, N, C). Tokens that a block read alone stay as they are."""
        if self.index is None or self.sizes is None or self.x.shape[1] < self.sizes.shape[1]:
            return self.x
        return ops.unmerge_tokens(self.x, self.index)


class MergingSequence(BlockSequence):
    """Blocks that merge tokens by their keys; at the end every place has the token of its group again.

    So a mean over the map weighs tokens by their sizes. Nothing is kept between calls. Blocks whose attention was
    removed have no keys and merge nothing; their MLP sees the merged tokens.

    Args:
        amounts: tokens to merge in each block, as far as there are enough of them.
        prefix_tokens: tokens in front of the map, which are never merged.
        proportional: whether a token counts in softmax as often as the places that it stands for.
    """

    def __init__(
        self, blocks: Iterable[nn.Module], amounts: Iterable[int], prefix_tokens: int, proportional: bool = True
    ) -> None:
        super().__init__(blocks)
        self.amounts = tuple(amounts)
        self.prefix_tokens = prefix_tokens
        self.proportional = proportional
        assert len(self.amounts) == len(self), "an amount for each block"

    def __getitem__(self, place: int | slice) -> nn.Module:
        """One block, or several as a sequence that merges as they do here."""
        if isinstance(place, slice):
            return MergingSequence(list(self)[place], self.amounts[place], self.prefix_tokens, self.proportional)
        return super().__getitem__(place)

    def __delitem__(self, place: int | slice) -> None:
        """Leave blocks out."""
        amounts = list(self.amounts)
        del amounts[place]
        self.amounts = tuple(amounts)
        super().__delitem__(place)

    def merged_ends(self, x: Tensor, grid: Grid) -> Iterator[MergedTokens]:
        """The tokens behind each block, x being (B, N, C), and what they stand for."""
        tokens = MergedTokens(x, None, None)
        for block, amount in zip(self, self.amounts, strict=True):
            amount = ops.merge_amount(amount, tokens.x.shape[1], self.prefix_tokens)
            if tokens.sizes is None and not (amount and merges(block)):
                tokens = tokens._replace(x=self.run(block, tokens.x, grid))
            else:
                assert isinstance(block, Block), "in front of other modules nothing is merged"
                tokens, keys = self.attend(block, tokens, grid)
                if amount and merges(block):
                    tokens = self.merge(tokens, match_keys(block, keys), amount)
                tokens = self.finish(block, tokens, grid)
            yield tokens

    def ends(self, x: Tensor, grid: Grid) -> Iterator[Tensor]:
        """Tokens (B, N, C) behind each block, every place with its token."""
        return (end.restored() for end in self.merged_ends(x, grid))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        end = MergedTokens(x, None, None)
        for end in self.merged_ends(x, grid):  # noqa: B007 - the last one is what comes out
            pass
        return end.restored()

    def num_merged(self, num_tokens: int) -> list[int]:
        """How many of `num_tokens` tokens each block merges away."""
        merged = []
        for block, amount in zip(self, self.amounts, strict=True):
            left = num_tokens - sum(merged)
            merged.append(ops.merge_amount(amount, left, self.prefix_tokens) if merges(block) else 0)
        return merged

    def macs(self, num_tokens: int) -> int:
        """Multiply-accumulates of the similarities of one image."""
        total = 0
        for block, merged in zip(self, self.num_merged(num_tokens), strict=True):
            if merged:
                behind = num_tokens - self.prefix_tokens
                pairs = behind // 2 * (behind - behind // 2)
                total += pairs * _kernel(block).dim // _kernel(block).num_heads
            num_tokens -= merged
        return total

    def attend(self, block: Block, tokens: MergedTokens, grid: Grid) -> tuple[MergedTokens, Tensor]:
        """Through the attention of a block; also the keys, (B, count, C), of one that has attention."""
        x = tokens.x
        if not isinstance(block.attn, Branch):
            return tokens._replace(x=x if block.attn is None else block.attn(x, grid)), x
        mixer, keys = block.attn.body, x

        def body(y: Tensor, grid: Grid) -> Tensor:
            nonlocal keys
            sizes = tokens.sizes if self.proportional else None
            out, keys = mixer.attend_sized(y, grid, sizes)  # type: ignore[operator]
            return out

        return tokens._replace(x=self.run(block.attn, x, grid, body)), keys

    def merge(self, tokens: MergedTokens, keys: Tensor, amount: int) -> MergedTokens:
        """Merge `amount` tokens of each image by their keys, (B, count, d)."""
        groups = ops.match_tokens(keys, amount, self.prefix_tokens)
        x, sizes = ops.merge_tokens(tokens.x, groups, tokens.sizes)
        return MergedTokens(x, sizes, groups.index if tokens.index is None else groups.index.gather(1, tokens.index))

    def finish(self, block: Block, tokens: MergedTokens, grid: Grid) -> MergedTokens:
        """Through what stands behind the attention of a block."""
        x = tokens.x if block.local is None else self.run(block.local, tokens.x, grid)
        return tokens._replace(x=self.run(block.mlp, x, grid))


def match_keys(block: nn.Module, keys: Tensor) -> Tensor:
    """What tokens of a block are compared by, (B, N, d): the mean over the heads of its keys (B, N, C)."""
    return ops.split_heads(keys, _kernel(block).num_heads).mean(dim=1)


def _kernel(block: nn.Module) -> SoftmaxKernel:
    return block.attn.body.kernel  # type: ignore[return-value, union-attr]


def merges(block: nn.Module) -> bool:
    """Whether a block has attention to take keys from, and gives all tokens."""
    branch = getattr(block, "attn", None)
    if isinstance(branch, DilutedBranch):
        return not branch.gone
    return isinstance(branch, Branch) and not isinstance(branch, ReadBranch)
