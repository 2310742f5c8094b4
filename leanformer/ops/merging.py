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
    count: int
    """Groups of each image."""


def merge_amount(r: int, num_tokens: int, prefix_tokens: int = 0) -> int:
    """How many of `num_tokens` tokens one matching can merge away: `r`, or half of those behind the prefix."""
    return max(0, min(r, (num_tokens - prefix_tokens) // 2))


def match_tokens(keys: Tensor, r: int, prefix_tokens: int = 0) -> Groups:
    """The groups that merging the `r` most similar pairs leaves of N tokens with these keys, (B, N, d).

    Tokens at even places each choose the one at an odd place whose key has the most similar direction; the `r` most
    similar choices are merged, the earlier of equal ones first. Tokens of the prefix neither choose nor are chosen, and
    stay in front in their order. Behind them come the even tokens that were not merged, then the odd ones. Similarities
    are in float32 whatever the input, and give no gradient.
    """
    batch, num_tokens, _ = keys.shape
    r = merge_amount(r, num_tokens, prefix_tokens)
    if r == 0:
        return Groups(torch.arange(num_tokens, device=keys.device).expand(batch, -1), num_tokens)
    even, odd = prefix_tokens + prefix_tokens % 2, prefix_tokens + 1 - prefix_tokens % 2
    unit = F.normalize(keys.detach().float(), dim=-1)
    best, choice = (unit[:, even::2] @ unit[:, odd::2].transpose(1, 2)).max(dim=-1)  # (B, even tokens)
    rank = best.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    merged = rank < r
    # parity: without a prefix the tokens that stay are published in the order of their similarity.
    place = (~merged).cumsum(dim=-1) - 1 if prefix_tokens else rank - r
    first_odd = prefix_tokens + best.shape[1] - r
    even_groups = torch.where(merged, first_odd + choice, prefix_tokens + place)
    odd_groups = torch.arange(first_odd, num_tokens - r, device=keys.device).expand(batch, -1)
    prefix = torch.arange(prefix_tokens, device=keys.device).expand(batch, -1)
    first, second = (even_groups, odd_groups) if even < odd else (odd_groups, even_groups)
    return Groups(torch.cat((prefix, _alternate(first, second)), dim=1), num_tokens - r)


def merge_tokens(x: Tensor, groups: Groups, sizes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The mean of each group of tokens (B, N, C), weighted by their `sizes`, and the sizes of the groups, (B, count).

    A token alone in its group stays as it is, bit for bit. Sizes, (B, N), are in float32, 1 each if not given.
    """
    if sizes is None:
        sizes = x.new_ones(x.shape[:2], dtype=torch.float32)
    total = sizes.new_zeros(sizes.shape[0], groups.count).scatter_add(1, groups.index, sizes)
    share = sizes / total.gather(1, groups.index)
    rows = (x * share.unsqueeze(-1).to(x.dtype)).flatten(0, 1)
    merged = rows.new_zeros(x.shape[0] * groups.count, x.shape[2]).index_add(0, _flat(groups.index, groups.count), rows)
    return merged.unflatten(0, (x.shape[0], groups.count)), total


def unmerge_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Every place's token, (B, N, C), from those of the groups (B, count, C) that `index` (B, N) names."""
    rows = x.flatten(0, 1).index_select(0, _flat(index, x.shape[1]))
    return rows.unflatten(0, (index.shape[0], index.shape[1]))


def _alternate(first: Tensor, second: Tensor) -> Tensor:
    """first[0], second[0], first[1], ... along the last axis; `first` may be longer by one."""
    paired = torch.stack((first[:, : second.shape[1]], second), dim=-1).flatten(1)
    return torch.cat((paired, first[:, second.shape[1] :]), dim=1)


def _flat(index: Tensor, count: int) -> Tensor:
    """Rows (B N,) of a (B count, ...) tensor for places (B, N)."""
    offsets = torch.arange(index.shape[0], device=index.device).unsqueeze(1) * count
    return (index + offsets).flatten()
