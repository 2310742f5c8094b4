"""Tokens become images and back without a copy, and convolutions take them as they lie."""

from __future__ import annotations

import pytest
import torch

from leanformer import ops


@pytest.mark.parametrize("batch", [1, 3])
def test_an_image_of_tokens_is_in_channels_last_order_for_any_batch(batch: int) -> None:
    tokens = torch.randn(batch, 12, 5)
    image = ops.to_map(tokens, (3, 4))
    assert image.shape == (batch, 5, 3, 4)
    assert image.stride() == (60, 1, 20, 5)  # torch judges by all strides, of the batch too
    assert torch.equal(image[0, :, 1, 2], tokens[0, 6])
    assert image.data_ptr() == tokens.data_ptr() == ops.to_tokens(image).data_ptr()
    assert torch.equal(ops.to_tokens(image), tokens)
