"""Learned positions at another resolution: equal to the published resizing, and clear where there is none."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from leanformer.checkpoints.resize import fit_positions, resize_position, resize_relative_bias
from leanformer.errors import CheckpointError
from leanformer.layers.position import LearnedPosition, RelativePositionBias

GOLDEN = Path(__file__).parents[1] / "golden" / "flatten" / "resize_swin_224_to_384.npz"


def golden():
    """(published name, table at 224 pixels, published table at 384 pixels) of three tables."""
    arrays = np.load(GOLDEN)
    meta = json.loads(str(arrays["meta"]))
    for index, name in enumerate(meta["picked"]):
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(meta["resized"][name][0])
        yield (
            name,
            torch.from_numpy((0.1 * noise).astype(np.float32)),
            torch.from_numpy(arrays[f"extra_resized_{index}"]),
        )


@pytest.mark.parametrize(
    ("name", "small", "large"), list(golden()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_tables_resize_as_published(name, small, large):
    found = resize_relative_bias(small, (12, 12)) if "bias" in name else resize_position(small, (48, 48))
    torch.testing.assert_close(found, large, rtol=0, atol=1e-6)


def test_prefix_tokens_keep_their_positions():
    table = torch.randn(1, 2 + 49, 5)
    resized = resize_position(table, (9, 11), prefix_tokens=2)
    assert resized.shape == (1, 2 + 99, 5)
    assert torch.equal(resized[:, :2], table[:, :2])
    torch.testing.assert_close(resized[:, 2:], resize_position(table[:, 2:], (9, 11)))


def test_the_same_size_changes_nothing():
    table, bias = torch.randn(1, 63, 4), torch.randn(13 * 17, 3)
    assert resize_position(table, (7, 9), source_grid=(7, 9)) is table
    assert resize_relative_bias(bias, (7, 9), source_window=(7, 9)) is bias


def test_a_constant_stays_constant_and_heads_stay_apart():
    bias = torch.tensor([1.0, -2.0, 3.0]).expand(169, 3)
    torch.testing.assert_close(resize_relative_bias(bias, (12, 5)), torch.tensor([1.0, -2.0, 3.0]).expand(23 * 9, 3))


def test_half_precision_tables_stay_half():
    assert resize_position(torch.randn(1, 16, 4).half(), (7, 7)).dtype == torch.float16


@pytest.mark.parametrize(
    ("table", "source", "match"),
    [
        (torch.zeros(1, 50, 4), None, r"\(1, 50, 4\) has 50 places, which are no square map"),
        (torch.zeros(1, 50, 4), (7, 7), r"\(1, 50, 4\) is not of a 7 x 7 map"),
        (torch.zeros(50, 4), None, r"a position table is \(1, 0 \+ N, C\), this one is \(50, 4\)"),
    ],
)
def test_a_table_of_no_square_map_is_named(table, source, match):
    with pytest.raises(CheckpointError, match=match):
        resize_position(table, (9, 9), source_grid=source)


@pytest.mark.parametrize("shape", [(168, 3), (196, 3), (169,)])
def test_a_bias_table_of_no_window_is_named(shape):
    with pytest.raises(CheckpointError, match="relative-position-bias table"):
        resize_relative_bias(torch.zeros(shape), (12, 12))


class Positions(nn.Module):
    def __init__(self, height: int, width: int | None = None) -> None:
        super().__init__()
        grid = height, width or height
        self.position = LearnedPosition(6, grid, prefix_tokens=1)
        self.bias = RelativePositionBias(grid, num_heads=2)
        self.table = nn.Linear(2, 2)


def test_all_positions_of_a_model_are_fitted_and_all_else_is_left():
    small, large = Positions(4), Positions(6)
    fitted = fit_positions(small.state_dict(), large)
    large.load_state_dict(fitted)
    assert torch.equal(large.table.weight, small.table.weight)
    torch.testing.assert_close(large.position.table, small.position((6, 6)))
    torch.testing.assert_close(large.bias((6, 6)), small.bias((6, 6)))


@pytest.mark.parametrize("source", [(6, 6), (4, 9), (3, 5)])
def test_maps_that_are_not_square_are_fitted_from_a_model_of_any_size_even_of_as_many_places(source):
    before, wide = Positions(*source), Positions(4, 9)
    nn.init.normal_(before.position.table)
    wide.load_state_dict(fit_positions(before.state_dict(), wide, before))
    torch.testing.assert_close(wide.position.table, before.position((4, 9)))
    torch.testing.assert_close(wide.bias((4, 9)), before.bias((4, 9)))


def test_a_position_that_cannot_be_fitted_is_named():
    with pytest.raises(CheckpointError, match=r"bias\.table: the relative-position-bias table \(48, 2\)"):
        fit_positions({"bias.table": torch.zeros(48, 2)}, Positions(6))
