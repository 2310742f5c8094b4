"""Windows: cut and joined without loss, padded where they must be, masked where a roll brought strangers together."""

from __future__ import annotations

import torch

from leanformer import ops


def test_windows_join_to_the_map_they_were_cut_from() -> None:
    x = torch.randn(3, 6, 9, 5)
    windows = ops.split_windows(x, (3, 3))
    assert windows.shape == (3 * 2 * 3, 9, 5)
    torch.testing.assert_close(windows[1], x[0, :3, 3:6].reshape(9, 5))
    assert torch.equal(ops.join_windows(windows, (3, 3), 6, 9), x)


def test_padding_adds_the_vector_at_the_bottom_and_right_only() -> None:
    x, value = torch.randn(2, 5, 7, 3), torch.tensor([1.0, 2.0, 3.0])
    padded = ops.pad_to_multiple(x, (4, 4), value)
    assert padded.shape == (2, 8, 8, 3)
    assert torch.equal(padded[:, :5, :7], x)
    assert (padded[:, 5:] == value).all() and (padded[:, :, 7:] == value).all()
    assert torch.equal(ops.pad_to_multiple(x, (4, 4))[:, :5, :7], x)
    assert ops.pad_to_multiple(x, (1, 1)) is x


def test_the_shift_mask_allows_exactly_the_pairs_that_were_neighbours() -> None:
    size, shift, height, width = 4, 2, 8, 12
    places = torch.arange(height * width).view(1, height, width, 1)
    rolled = ops.split_windows(places.roll((-shift, -shift), (1, 2)), (size, size))[..., 0]
    rows, columns = rolled // width, rolled % width
    near = ((rows[:, :, None] - rows[:, None, :]).abs() < size) & (
        (columns[:, :, None] - columns[:, None, :]).abs() < size
    )
    mask = ops.shifted_window_mask(height, width, size, shift)
    assert torch.equal(mask == 0, near)
    assert set(mask.unique().tolist()) == {-100.0, 0.0}
