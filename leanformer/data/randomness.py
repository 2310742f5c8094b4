"""Random numbers as pure functions of what they are for: (purpose, seed, epoch, index). No state is kept or saved."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch

Purpose = Literal["order", "image", "mixing"]
_STREAMS = {"order": 1, "image": 2, "mixing": 4}  # first in the key: numpy pads short keys with zeros


def generator(purpose: Purpose, seed: int, epoch: int, index: int = 0, copy: int = 0) -> np.random.Generator:
    """A numpy generator that depends on its arguments alone; `copy` counts what an epoch does again."""
    return np.random.default_rng([_STREAMS[purpose], seed, epoch, index, *([copy] if copy else [])])


@contextmanager
def seeded(purpose: Purpose, seed: int, epoch: int, index: int = 0, copy: int = 0) -> Iterator[None]:
    """Seed python's, numpy's and torch's global generators inside the block and restore them after it."""
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    source = generator(purpose, seed, epoch, index, copy)
    random.seed(int(source.integers(2**63)))
    np.random.seed(int(source.integers(2**32)))
    torch.default_generator.manual_seed(int(source.integers(2**63)))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.default_generator.set_state(cpu)
