"""What every test starts from: fixed seeds, one thread, and no silent skip of what the environment should have."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Where the extras are promised, a skipped `extras` test is a failure: gated tests rot unseen."""
    outcome = yield
    report = outcome.get_result()
    promised = os.environ.get("LEANFORMER_REQUIRE_EXTRAS") == "1" and item.get_closest_marker("extras")
    if promised and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, but the full environment should run it: {report.longrepr}"
