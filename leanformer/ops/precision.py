"""Arithmetic of a chosen precision for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply in float32 on GPUs too, which else take TF32 for convolutions: its 10-bit mantissa hides what is
    compared."""
    backends: tuple[Any, Any] = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul, conv = backends
    before = matmul.allow_tf32, conv.allow_tf32
    matmul.allow_tf32 = conv.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, conv.allow_tf32 = before


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Keep the dtypes that the code says on the device of `x`, also where autocast would lower them."""
    kind = x.device.type
    active = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if active else nullcontext()
