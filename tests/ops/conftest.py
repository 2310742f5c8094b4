"""Every operation is tested on memory that shows when it is read before it is written."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _poisoned_memory(nan_empty: None) -> None:
    pass
