"""Bipartite soft matching ("Token Merging: Your ViT But Faster", https://arxiv.org/abs/2210.09461, section 3): which
tokens are alike, their mean, and the way back.

How many tokens are left follows from the shapes alone, so graphs with merging compile and export.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Groups(NamedTuple):
    """What becomes one token: token n of image b goes into group `index[b, n]`."""

    index: Tensor
    """(B, N), int64."""
    kept: Tensor
    """The token whose place each group takes, (B, groups)."""
    moved: Tensor
    """The tokens that go into the group of another, (B, N - groups)."""


def merge_amount(r: int, num_tokens: int, prefix_tokens: int = 0) -> int:
    """How many of `num_tokens` tokens one matching can merge away: `r`, or half of those behind the prefix."""
    return max(0, min(r, (num_tokens - prefix_tokens) // 2))


def best_matches(keys: Tensor, prefix_tokens: int = 0) -> tuple[Tensor, Tensor]:
    """The cosine of the key of each token at an even place, behind the prefix, and the most similar one at an odd
    place, and which of those it is: each (B, even places)."""
    even, odd = _turns(prefix_tokens)
    unit = F.normalize(keys.detach().float(), dim=-1)
    best, choice = (unit[:, even::2] @ unit[:, odd::2].transpose(1, 2)).max(dim=-1)
    return best, choice


def match_tokens(keys: Tensor, r: int, prefix_tokens: int = 0) -> Groups:
    """The groups that merging the `r` most similar pairs leaves of N tokens with these keys, (B, N, d).

    Tokens at even places each choose the one at an odd place whose key has the most similar direction; the `r` most
    similar choices are merged, the earlier of equal ones first. Tokens of the prefix neither choose nor are chosen, and
    stay in front in their order. Behind them come the even tokens that were not merged, then the odd ones. Similarities
    are in float32 whatever the input, and give no gradient.
    """
    batch, num_tokens, _ = keys.shape
    r = merge_amount(r, num_tokens, prefix_tokens)
    places = torch.arange(num_tokens, device=keys.device)
    if r == 0:
        every = places.expand(batch, -1)
        return Groups(every, every, every[:, :0])
    even, odd = _turns(prefix_tokens)
    best, choice = best_matches(keys, prefix_tokens)
    order = best.argsort(dim=-1, descending=True, stable=True)
    merged, staying = order[:, :r], order[:, r:]
    # parity: without a prefix the tokens that stay are published in the order of their similarity.
    staying = staying.sort(dim=-1).values if prefix_tokens else staying
    front, behind = places[:prefix_tokens].expand(batch, -1), places[odd::2].expand(batch, -1)
    kept = torch.cat((front, even + 2 * staying, behind), dim=1)
    moved = even + 2 * merged
    into = kept.shape[1] - behind.shape[1] + choice.gather(1, merged)
    index = torch.zeros_like(places).expand(batch, -1)
    index = index.scatter(1, kept, places[: kept.shape[1]].expand(batch, -1)).scatter(1, moved, into)
    return Groups(index, kept, moved)


def merge_tokens(x: Tensor, groups: Groups, sizes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The mean of each group of tokens (B, N, C), weighted by their `sizes`, and the sizes of the groups.

    A token alone in its group stays as it is, bit for bit. Sizes, (B, N), are in float32, 1 each if not given.
    """
    if sizes is None:
        sizes = x.new_ones(x.shape[:2], dtype=torch.float32)
    into = groups.index.gather(1, groups.moved)
    added = sizes.gather(1, groups.moved)
    total = sizes.gather(1, groups.kept).scatter_add(1, into, added)
    share = (added / total.gather(1, into)).to(x.dtype)
    kept, moved = _rows(x, groups.kept), _rows(x, groups.moved)
    targets = _flat(into, groups.kept.shape[1])
    mean = kept.index_add_(0, targets, (moved - kept.index_select(0, targets)) * share.view(-1, 1))
    return mean.unflatten(0, (x.shape[0], groups.kept.shape[1])), total


def unmerge_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Every place's token, (B, N, C), from those of the groups (B, groups, C) that `index` (B, N) names."""
    return _rows(x, index).unflatten(0, (index.shape[0], index.shape[1]))


def _turns(prefix_tokens: int) -> tuple[int, int]:
    """The first even and the first odd place behind the prefix."""
    return prefix_tokens + prefix_tokens % 2, prefix_tokens + 1 - prefix_tokens % 2


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """The tokens of x, (B, M, C), at the places `index` (B, N): (B N, C)."""
    return x.flatten(0, 1).index_select(0, _flat(index, x.shape[1]))


def _flat(index: Tensor, count: int) -> Tensor:
    """Rows (B N,) of a (B count, ...) tensor for places (B, N)."""
    offsets = torch.arange(index.shape[0], device=index.device).unsqueeze(1) * count
    return (index + offsets).flatten()
