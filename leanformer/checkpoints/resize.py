"""Learned position tables at another resolution, bicubically, as the published fine-tuning at 384 pixels does it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from leanformer.errors import CheckpointError
from leanformer.layers.position import Interpolation, LearnedPosition, RelativePositionBias, resize_tokens
from leanformer.layers.site import Grid


def resize_position(
    table: Tensor,
    grid: Grid,
    *,
    prefix_tokens: int = 0,
    source_grid: Grid | None = None,
    mode: Interpolation = "bicubic",
) -> Tensor:
    """A position table (1, prefix + N, C) for a map of size `grid`; prefix tokens keep theirs.

    The table is of a square map unless `source_grid` says otherwise.

    Raises:
        CheckpointError: if the table is of no such map.
    """
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[1] <= prefix_tokens:
        raise CheckpointError(f"a position table is (1, {prefix_tokens} + N, C), this one is {tuple(table.shape)}")
    source = source_grid or _square(table.shape[1] - prefix_tokens, f"the position table {tuple(table.shape)}")
    if source[0] * source[1] != table.shape[1] - prefix_tokens:
        raise CheckpointError(f"the position table {tuple(table.shape)} is not of a {source[0]} x {source[1]} map")
    if source == grid:
        return table
    places = resize_tokens(table[:, prefix_tokens:].float(), source, grid, mode).to(table.dtype)
    return torch.cat((table[:, :prefix_tokens], places), dim=1)


def resize_relative_bias(table: Tensor, window: Grid, *, source_window: Grid | None = None) -> Tensor:
    """A relative-position-bias table ((2h-1)(2w-1), heads) for windows of size `window`, each head by itself.

    The table is of a square window unless `source_window` says otherwise.

    Raises:
        CheckpointError: if the table is of no such window.
    """
    if table.ndim != 2:
        raise CheckpointError(f"a relative-position-bias table is (offsets, heads), this one is {tuple(table.shape)}")
    name = f"the relative-position-bias table {tuple(table.shape)}"
    source = _offsets(source_window) if source_window else _square(table.shape[0], name)
    if source[0] * source[1] != table.shape[0] or not source[0] % 2:
        raise CheckpointError(f"{name} is not of a window: (2 h - 1) x (2 w - 1) offsets are expected")
    target = _offsets(window)
    if source == target:
        return table
    return resize_tokens(table.float().unsqueeze(0), source, target)[0].to(table.dtype)


def position_tables(model: nn.Module) -> dict[str, LearnedPosition | RelativePositionBias]:
    """The learned positions of a model by the names of their tables."""
    return {
        f"{path}.table": module
        for path, module in model.named_modules()
        if isinstance(module, (LearnedPosition, RelativePositionBias))
    }


def fit_positions(
    tensors: Mapping[str, Tensor], model: nn.Module, source: nn.Module | None = None
) -> dict[str, Tensor]:
    """`tensors` under our names with every learned position resized to what `model` has; all else as it is.

    Args:
        source: the model that the tensors are of, which knows the sizes of its maps and windows. Tables that are not
            of its shapes, and all without a source, are of square maps unless they have the shape that `model` has.

    Raises:
        CheckpointError: if a table is of no square map or window, naming it.
    """
    out = dict(tensors)
    sources = {} if source is None else position_tables(source)
    for name, module in position_tables(model).items():
        if name not in out:
            continue
        known = name in sources and sources[name].table.shape == out[name].shape
        grid = sources[name].grid if known else None
        if grid is None and out[name].shape == module.table.shape:
            continue
        try:
            if isinstance(module, RelativePositionBias):
                out[name] = resize_relative_bias(out[name], module.grid, source_window=grid)
            else:
                prefix = module.prefix_tokens
                out[name] = resize_position(
                    out[name], module.grid, prefix_tokens=prefix, source_grid=grid, mode=module.resize
                )
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error
    return out


def _offsets(window: Grid) -> Grid:
    return 2 * window[0] - 1, 2 * window[1] - 1


def _square(count: int, name: str) -> Grid:
    side = math.isqrt(count)
    if side * side != count:
        raise CheckpointError(f"{name} has {count} places, which are no square map; give the size that it was made for")
    return side, side
