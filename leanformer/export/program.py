"""The traced program of a model, which every exporter starts from, and errors that name the module that cannot be
traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from leanformer.errors import ExportError


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
