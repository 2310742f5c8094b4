"""What every test starts from: fixed seeds, one thread, and no silent skip of what the environment should have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

torch.set_num_threads(1)
os.environ["LEANFORMER_OFFLINE"] = "1"  # no test reaches the network

EXTRAS_PROMISED = os.environ.get("LEANFORMER_REQUIRE_EXTRAS") == "1"


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def nan_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is not written to is NaN: an operation that reads what it never wrote shows it."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))


def _poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def allocate_poisoned(*args: Any, **kwargs: Any) -> Tensor:
        tensor = allocate(*args, **kwargs)
        return tensor.detach().fill_(torch.nan) if tensor.is_floating_point() else tensor

    return allocate_poisoned


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where the extras are promised, a skipped `extras` test is a failure: gated tests rot unseen."""
    report = (yield).get_result()
    if EXTRAS_PROMISED and report.skipped and item.get_closest_marker("extras"):
        _fail(report)


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for files that `pytest.importorskip` leaves before their tests are known."""
    report = (yield).get_result()
    if EXTRAS_PROMISED and report.skipped:
        _fail(report)


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid} was skipped, but the full environment should run it: {report.longrepr}"
