"""Softmax attention through SDPA against the formula, with biases and with masks that differ by window."""

from __future__ import annotations

import torch

from leanformer import ops


def test_bias_and_window_masks_are_added_to_the_scores() -> None:
    windows, images, heads, tokens, dim = 3, 2, 2, 7, 4
    q, k, v = (torch.randn(images * windows, heads, tokens, dim) for _ in range(3))
    bias, mask = torch.randn(heads, tokens, tokens), torch.randn(windows, tokens, tokens)
    scores = q @ k.transpose(-2, -1) / dim**0.5
    expected = ((scores + bias + mask.repeat(images, 1, 1)[:, None]).softmax(-1)) @ v
    torch.testing.assert_close(ops.softmax_attention(q, k, v, bias=bias, mask=mask), expected)
    torch.testing.assert_close(ops.softmax_attention(q, k, v, bias=bias), (scores + bias).softmax(-1) @ v)
    torch.testing.assert_close(ops.softmax_attention(q, k, v), scores.softmax(-1) @ v)


def test_a_bias_of_the_keys_is_that_of_each_image_for_every_query_and_head() -> None:
    q, k, v = torch.randn(3, 2, 5, 4), torch.randn(3, 2, 7, 4), torch.randn(3, 2, 7, 4)
    key_bias = torch.randn(3, 7)
    scores = q @ k.transpose(-2, -1) / 2 + key_bias[:, None, None]
    torch.testing.assert_close(ops.softmax_attention(q, k, v, key_bias=key_bias), scores.softmax(-1) @ v)


def test_heads_split_and_merge_back() -> None:
    x = torch.randn(3, 5, 12)
    heads = ops.split_heads(x, 4)
    assert torch.equal(heads[:, 1], x[:, :, 3:6])
    assert torch.equal(ops.merge_heads(heads), x)
