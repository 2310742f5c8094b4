"""The traced program of a model, which every exporter starts from, and errors that name the module that cannot be
traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, default_decompositions
from torch.fx import Node

from leanformer.errors import ExportError

NORMS = frozenset({"layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm"})


def trace(model: nn.Module, images: Tensor, *, dynamic_batch: bool) -> ExportedProgram:
    """Trace `model`, already in evaluation mode, on (B, 3, H, W) `images`; with `dynamic_batch` B is left open.

    Raises:
        ExportError: naming the innermost module whose forward could not be traced.
    """
    if dynamic_batch:
        images = images.expand(2, *images.shape[1:]).contiguous()  # a traced size of 1 would be taken for a constant
    shapes = ({0: Dim("batch", min=1)},) if dynamic_batch else None
    try:
        with torch.no_grad():
            return torch.export.export(model, (images,), dynamic_shapes=shapes)
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        where = _innermost_module(model, error.__traceback__)
        hint = "; a model whose shapes depend on the batch may export with dynamic_batch=False" if dynamic_batch else ""
        raise ExportError(f"{where} cannot be exported: {root_cause(error)}{hint}") from error


def attention_in_steps(program: ExportedProgram) -> ExportedProgram:
    """The program with attention as two products and a softmax instead of one operation.

    What exporters put in its place by themselves guards against rows that are masked whole, which our models do not
    have and runtimes compute slowly, and fails for attention with biases or in stripes.
    """
    return program.run_decompositions({torch.ops.aten.scaled_dot_product_attention.default: _attention})


def in_core_operations(program: ExportedProgram, more: Mapping[Any, Callable[..., Any]]) -> ExportedProgram:
    """The program in torch's core operations, those that `more` names spelt out as it says."""
    table = default_decompositions()
    table.update(more)
    return program.run_decompositions(table)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if dropout_p or is_causal or enable_gqa or (attn_mask is not None and not attn_mask.is_floating_point()):
        return NotImplemented  # no model of ours: left to the exporter
    scores = (q * (scale or q.shape[-1] ** -0.5)) @ k.transpose(-2, -1)
    return (scores if attn_mask is None else scores + attn_mask).softmax(dim=-1) @ v


def stable_sort(x: Tensor, dim: int = -1, descending: bool = False, *, stable: bool | None = True) -> Any:
    """aten.sort over the last dimension, which some runtimes lack: each value's place is the number of values
    before it."""
    if dim not in (-1, x.ndim - 1):
        return NotImplemented
    own, other = x.unsqueeze(-1), x.unsqueeze(-2)
    place = torch.arange(x.shape[-1], device=x.device)
    before = other > own if descending else other < own
    tied = torch.logical_and(other == own, place < place.unsqueeze(-1))
    rank = torch.logical_or(before, tied).int().sum(-1, dtype=torch.int32).long()  # Core ML sums truths as floats
    order = torch.zeros_like(rank).scatter(-1, rank, place.expand_as(rank))
    return x.gather(-1, order), order


def _stable_argsort(x: Tensor, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:
    return stable_sort(x, dim, descending, stable=stable)[1]


SORTS: dict[Any, Any] = {
    torch.ops.aten.sort.stable: stable_sort,
    torch.ops.aten.sort.default: stable_sort,
    torch.ops.aten.argsort.stable: _stable_argsort,
}
"""Sorting, for runtimes that lack it."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode, and each of its modules back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def kind_of_node(node: Node) -> str:
    """What a node of a traced graph calls, such as "layer_norm"; empty for inputs, outputs and constants."""
    if node.op != "call_function":
        return ""
    name = getattr(node.target, "_schema", None)
    name = name.name if name is not None else getattr(node.target, "__name__", str(node.target))
    return str(name).rpartition("::")[2]


def count_program_norms(program: ExportedProgram) -> int:
    """Normalisations that a traced program computes."""
    return sum(kind_of_node(node) in NORMS for node in program.graph.nodes)


def _innermost_module(model: nn.Module, traceback: TracebackType | None) -> str:
    names = {module: name for name, module in model.named_modules()}
    found = f"the model ({type(model).__name__})"
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and names.get(owner):
            found = f"module '{names[owner]}' ({type(owner).__name__})"
        traceback = traceback.tb_next
    return found


def root_cause(error: BaseException) -> str:
    """The first lines of the error at the end of the chain of causes; exporters wrap theirs in advice on filing
    bugs."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__
