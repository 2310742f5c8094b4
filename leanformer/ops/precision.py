"""Full float32 arithmetic for a while, where outputs are compared rather than made fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


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
