"""Activation checkpointing: blocks computed a second time in the backward pass, in place of keeping what lies between
(https://arxiv.org/abs/1604.06174)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module, x: Tensor, *args: Any) -> Tensor:
    """`module(x, *args)`, of which the backward pass keeps x alone.

    The result and the gradients are those of a plain call: random numbers are drawn again as they were, and running
    statistics of batch norms count the batch once.
    """
    if not torch.is_grad_enabled():
        return module(x, *args)
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    if not norms or not module.training:
        return checkpoint(module, x, *args, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _resting_statistics(norms)

    return checkpoint(module, x, *args, use_reentrant=False, context_fn=contexts)


@contextmanager
def _resting_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let the norms count into copies of their statistics; autograd keeps the ones it has seen."""
    counted = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, counted, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, counted, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
