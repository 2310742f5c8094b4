"""Which device runs, with which kernels and from which seeds: a step depends on the seed and its number alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from leanformer.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device called `cpu` or `cuda`, or with `auto` the better one that is here."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("device 'cuda' was asked for, but torch finds no CUDA device here; use 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators, choose deterministic CPU kernels, and put everything back afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    switches: Any = torch.utils.deterministic
    fill = switches.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # not every GPU of the machine
        torch.manual_seed(seed)
        if device.type == "cpu":
            torch.use_deterministic_algorithms(True)
            switches.fill_uninitialized_memory = False  # it finds bugs, and costs time
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            switches.fill_uninitialized_memory = fill


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's generators for one optimizer step; ranks draw numbers of their own for their images."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, *([rank] if rank else [])]).generate_state(1)[0]))
