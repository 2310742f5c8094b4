"""Filling a model from tensors: every parameter and running statistic exactly once, and nothing left over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from leanformer.errors import CheckpointError, nearest

COUNTERS = ("num_batches_tracked", "progress")
"""Last parts of names that a file may leave out."""
_SHOWN = 8


@torch.no_grad()
def load_strict(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    key_map_name: str | None = None,
    same_dtype: bool = False,
) -> None:
    """Copy `tensors` into `model`, in place.

    Counters (of batch norms, and the progress of progressive norms) that are not given become 0: training is over.
    Floating-point numbers of another width are converted, unless `same_dtype`.

    Args:
        source: what errors call the tensors, a file name as a rule.
        key_map_name: the key map that they came through, for errors.

    Raises:
        CheckpointError: if names, shapes or kinds of numbers differ, listing them; the model is then untouched.
    """
    targets = model.state_dict()
    problems = differences(targets, tensors, same_dtype=same_dtype)
    if problems:
        through = f" through the key map {key_map_name!r}" if key_map_name else ""
        raise CheckpointError("\n".join((f"{source} does not fit the model{through}", *problems)))
    for name, target in targets.items():
        if name in tensors:
            target.copy_(tensors[name])
        else:
            target.zero_()
    for module in model.modules():
        if hasattr(module, "follow_buffers"):  # what it does follows from a buffer
            module.follow_buffers()  # type: ignore[operator]


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, same_dtype: bool) -> list[str]:
    """What keeps the tensors `found` from filling those `expected`, as indented lines; empty if nothing does."""
    missing = [name for name in expected if name not in found and name.rpartition(".")[2] not in COUNTERS]
    left = [name for name in found if name not in expected]
    both = [(name, found[name], expected[name]) for name in found if name in expected]
    shapes = [f"{name} is {_shape(a)}, the model's {_shape(b)}" for name, a, b in both if a.shape != b.shape]
    dtypes = [f"{name} is {_dtype(a)}, the model's {_dtype(b)}" for name, a, b in both if not _fits(a, b, same_dtype)]
    lines = [
        *_section("nothing fills", [f"{name} {_shape(expected[name])}" for name in missing]),
        *_section("not in the model", [f"{name} {_shape(found[name])}" for name in left]),
        *_section("of another shape", shapes),
        *_section("of another dtype", dtypes),
    ]
    for name in left[:1]:
        lines += [f"  {name} is nearest to {near}" for near in nearest(name, missing, count=1)]
    return lines


def _fits(found: Tensor, expected: Tensor, same_dtype: bool) -> bool:
    if found.is_floating_point() and expected.is_floating_point() and not same_dtype:
        return True
    return found.dtype == expected.dtype


def _section(title: str, items: list[str]) -> Iterable[str]:
    if items:
        yield f"  {len(items)} {title}:"
        yield from (f"    {item}" for item in items[:_SHOWN])
    if len(items) > _SHOWN:
        yield f"    ... and {len(items) - _SHOWN} more"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
