"""Bipartite soft matching against a plain loop, and what holds for every number of tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leanformer import ops

SIZES = [(33, 5, 1), (34, 5, 1), (32, 7, 0), (33, 7, 0), (31, 6, 2), (32, 40, 2), (37, 9, 5), (38, 9, 6), (3, 1, 1)]
"""Tokens, r and tokens of the prefix."""


def merged_by_a_loop(keys: Tensor, r: int, prefix: int) -> list[set[int]]:
    """The groups of one image, from the paper's words."""
    unit = keys / keys.norm(dim=-1, keepdim=True)
    choices = []
    for i in range(0, len(keys), 2):
        others = [j for j in range(1, len(keys), 2) if j >= prefix]
        if i >= prefix and others:
            best = max(others, key=lambda j: float(unit[i] @ unit[j]))
            choices.append((float(unit[i] @ unit[best]), i, best))
    groups = {i: {i} for i in range(len(keys))}
    for _, i, best in sorted(choices, reverse=True)[: min(r, (len(keys) - prefix) // 2)]:
        groups[best] |= groups.pop(i)
    return sorted(groups.values(), key=min)


@pytest.mark.parametrize(("tokens", "r", "prefix"), SIZES)
def test_the_groups_are_those_of_the_paper_and_the_prefix_stays_in_front(tokens: int, r: int, prefix: int) -> None:
    keys = torch.randn(3, tokens, 4)
    groups = ops.match_tokens(keys, r, prefix)
    assert groups.kept.shape[1] == tokens - ops.merge_amount(r, tokens, prefix)
    assert torch.equal(groups.index[:, :prefix], torch.arange(prefix).expand(3, -1))
    for image, index in zip(keys, groups.index.tolist(), strict=True):
        found = [{n for n, place in enumerate(index) if place == group} for group in range(groups.kept.shape[1])]
        assert sorted(found, key=min) == merged_by_a_loop(image, r, prefix)


@pytest.mark.parametrize(("tokens", "r", "prefix"), SIZES)
def test_tokens_that_were_not_merged_come_back_bit_for_bit_and_the_others_as_their_mean(
    tokens: int, r: int, prefix: int
) -> None:
    x, sizes = torch.randn(2, tokens, 6), torch.randint(1, 9, (2, tokens)).float()
    groups = ops.match_tokens(torch.randn(2, tokens, 4), r, prefix)
    merged, total = ops.merge_tokens(x, groups, sizes)
    back = ops.unmerge_tokens(merged, groups.index)
    members = groups.index.unsqueeze(1) == groups.index.unsqueeze(2)  # (B, N, N)
    alone = members.sum(-1) == 1
    assert torch.equal(back[alone], x[alone])
    weights = members * sizes.unsqueeze(1)
    torch.testing.assert_close(back, weights @ x / weights.sum(-1, keepdim=True))
    assert torch.equal(total.sum(1), sizes.sum(1))


def test_nothing_is_merged_with_r_of_zero_or_fewer_than_two_tokens_to_merge() -> None:
    x = torch.randn(2, 8, 3)
    for r, prefix in ((0, 1), (5, 7), (5, 8)):
        groups = ops.match_tokens(x, r, prefix)
        merged, sizes = ops.merge_tokens(x, groups)
        assert groups.kept.shape[1] == 8
        assert torch.equal(ops.unmerge_tokens(merged, groups.index), x)
        assert torch.equal(sizes, torch.ones(2, 8))


def test_equal_similarities_are_merged_in_the_order_of_the_tokens() -> None:
    keys = torch.ones(2, 13, 4)
    index = ops.match_tokens(keys, 3, 1).index
    assert torch.equal(index[0], index[1])
    # Tokens 2, 4 and 6 are merged, all into the first of those at odd places.
    assert index[0].tolist() == [0, 4, 4, 5, 4, 6, 4, 7, 1, 8, 2, 9, 3]


def test_similarities_of_half_precision_are_computed_in_float32() -> None:
    keys = torch.randn(2, 41, 8).half()
    big = keys * 2000  # the squares of such keys are beyond half precision
    assert torch.equal(ops.match_tokens(big, 11, 1).index, ops.match_tokens(keys.float(), 11, 1).index)
    merged, sizes = ops.merge_tokens(big, ops.match_tokens(big, 11, 1))
    assert merged.dtype == torch.float16
    assert sizes.dtype == torch.float32


def test_merged_tokens_share_the_gradient_by_their_sizes_and_matching_gives_none() -> None:
    x = torch.randn(1, 5, 2, requires_grad=True)
    keys = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [1.0, 0.1], [0.0, -1.0], [-1.0, 0.0]]], requires_grad=True)
    groups = ops.match_tokens(keys, 1, 1)  # token 2 into token 1
    merged, _ = ops.merge_tokens(x, groups, torch.tensor([[1.0, 3.0, 1.0, 1.0, 1.0]]))
    merged.sum().backward()
    torch.testing.assert_close(x.grad[0, :, 0], torch.tensor([1.0, 0.75, 0.25, 1.0, 1.0]))
    assert keys.grad is None


def test_merging_compiles_into_one_graph_for_every_batch_size() -> None:
    def merge(keys: Tensor) -> Tensor:
        groups = ops.match_tokens(keys, 5, 1)
        merged, sizes = ops.merge_tokens(keys, groups)
        return ops.unmerge_tokens(merged * sizes.unsqueeze(-1), groups.index)

    compiled = torch.compile(merge, fullgraph=True, dynamic=True, backend="eager")
    for batch in (3, 2, 5):
        keys = torch.randn(batch, 19, 4)
        torch.testing.assert_close(compiled(keys), merge(keys))
