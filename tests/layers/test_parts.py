"""Positions, local values, windows and embeddings against readable references, on odd shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leanformer.layers.attention import FocusedLinear, SimplifiedLinear, Softmax
from leanformer.layers.attention.parts import KeyPosition, LocalValues
from leanformer.layers.embed import ConvStem, PatchEmbed, PatchMerging
from leanformer.layers.position import LearnedPosition, RelativePositionBias
from leanformer.layers.region import Window
from leanformer.layers.site import Site


def test_a_position_table_is_itself_on_its_own_grid_and_resized_on_another() -> None:
    position = LearnedPosition(4, (3, 5), prefix_tokens=2, std=0.5)
    assert torch.equal(position((3, 5)), position.table)
    resized = position((7, 9))
    assert resized.shape == (1, 2 + 63, 4)
    assert torch.equal(resized[:, :2], position.table[:, :2])
    image = position.table[0, 2:].T.reshape(1, 4, 3, 5)
    expected = F.interpolate(image, size=(7, 9), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized[0, 2:].T.reshape(1, 4, 7, 9), expected)


def test_relative_biases_depend_on_the_offset_alone() -> None:
    bias = RelativePositionBias((3, 4), num_heads=2)
    scores = bias((3, 4))
    table = bias.table.view(5, 7, 2)
    for query, key in ((0, 0), (0, 11), (5, 2), (11, 0)):
        down, right = query // 4 - key // 4, query % 4 - key % 4
        assert torch.equal(scores[:, query, key], table[down + 2, right + 3])
    assert bias((5, 4)).shape == (2, 20, 20)


def test_prefix_tokens_get_no_bias_no_key_position_and_no_local_value() -> None:
    assert not RelativePositionBias((2, 3), 2, prefix_tokens=1)((2, 3))[:, 0].any()
    keys = torch.randn(2, 7, 4)
    position = KeyPosition(4, (2, 3), prefix_tokens=1)
    nn.init.normal_(position.table)
    moved = position.add_to(keys, (2, 3))
    assert torch.equal(moved[:, 0], keys[:, 0])
    torch.testing.assert_close(moved[:, 1:], keys[:, 1:] + position.table)
    local = LocalValues(4, 3, prefix_tokens=1)
    assert not local(torch.randn(2, 3, 7, 4), (2, 3), (2, 3))[:, :, 0].any()


def test_local_values_are_one_depthwise_convolution_for_all_heads() -> None:
    local = LocalValues(4, 5)
    v = torch.randn(2, 3, 7 * 9, 4)
    out = local(v, (7, 9), (7, 9))
    for head in range(3):
        image = v[:, head].transpose(1, 2).reshape(2, 4, 7, 9)
        torch.testing.assert_close(out[:, head].transpose(1, 2).reshape(2, 4, 7, 9), local.conv(image))


@pytest.mark.parametrize("attention", [Softmax(), SimplifiedLinear(), FocusedLinear()], ids=lambda a: a.kind)
def test_attention_gives_the_class_token_every_place_and_the_map_its_own(attention: SimplifiedLinear) -> None:
    mixer = attention.build(Site(dim=48, num_heads=3, grid=(5, 7), prefix_tokens=1))
    x = torch.randn(2, 36, 48, requires_grad=True)
    out = mixer(x, (5, 7))
    assert out.shape == x.shape
    (grad,) = torch.autograd.grad(out[:, 0].sum(), x)
    assert grad[:, 1:].abs().sum(-1).gt(0).all()


def reference_windows(x: torch.Tensor, grid: tuple[int, int], size: int) -> torch.Tensor:
    """Mean over each window, written out place by place; a padded place counts as zero."""
    out = torch.zeros_like(x)
    for row in range(0, grid[0], size):
        for column in range(0, grid[1], size):
            places = [
                r * grid[1] + c
                for r in range(row, min(row + size, grid[0]))
                for c in range(column, min(column + size, grid[1]))
            ]
            out[:, places] = x[:, places].sum(1, keepdim=True) / size**2
    return out


def test_a_window_runs_its_mixer_on_each_window_and_pads_with_zeros() -> None:
    x = torch.randn(2, 35, 3)
    window = Window(3, 0, (5, 7))
    out = window(lambda t, grid, mask: t.mean(1, keepdim=True).expand_as(t), x, (5, 7))
    torch.testing.assert_close(out, reference_windows(x, (5, 7), 3))


def test_a_shifted_window_never_mixes_places_that_were_far_apart() -> None:
    mixer = Softmax().build(Site(dim=8, num_heads=2, grid=(4, 4)))
    window = Window(4, 2, (8, 12))
    x = torch.randn(1, 96, 8, requires_grad=True)
    out = window(mixer, x, (8, 12))
    (grad,) = torch.autograd.grad(out[0, 0].sum(), x)  # the corner sees its own quarter window alone
    seen = grad[0].abs().sum(-1).view(8, 12) > 1e-12
    assert seen[:2, :2].all() and seen.sum() == 4


def test_a_window_serves_other_grids_than_its_own() -> None:
    mixer = Softmax().build(Site(dim=8, num_heads=2, grid=(4, 4)))
    x = torch.randn(2, 9 * 13, 8)
    torch.testing.assert_close(Window(4, 2, (8, 8))(mixer, x, (9, 13)), Window(4, 2, (9, 13))(mixer, x, (9, 13)))


def test_patch_merging_joins_neighbours_in_the_published_order_and_pads_odd_sides() -> None:
    merging = PatchMerging(2, 5, nn.Identity())
    x = torch.randn(1, 15, 2)
    out, grid = merging(x, (3, 5))
    assert grid == (2, 3)
    image = F.pad(x.view(1, 3, 5, 2), (0, 0, 0, 1, 0, 1))
    parts = [image[:, 0::2, 0::2], image[:, 1::2, 0::2], image[:, 0::2, 1::2], image[:, 1::2, 1::2]]
    torch.testing.assert_close(out, merging.reduction(torch.cat(parts, -1)).view(1, 6, 5))


@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_both_stems_give_one_token_for_each_patch(patch_size: int) -> None:
    images = torch.randn(2, 3, 16, 24)
    for stem in (PatchEmbed(3, 12, patch_size, nn.Identity()), ConvStem(3, 12, patch_size, nn.Identity())):
        tokens, grid = stem(images)
        assert grid == (16 // patch_size, 24 // patch_size)
        assert tokens.shape == (2, grid[0] * grid[1], 12)
