"""The test suite's own promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sources import ROOT

SKIPPING = """
import pytest
@pytest.mark.extras
def test_of_an_extra():
    pytest.importorskip("no_such_module")
def test_of_something_else():
    pytest.skip("for a reason")
"""
SKIPPING_WHOLE = """
import pytest
pytest.importorskip("no_such_module")
def test_of_an_extra():
    pass
"""


def test_a_skipped_extra_fails_where_the_extras_are_promised(tmp_path):
    printed = _run(tmp_path, promised="1")
    assert "1 failed, 1 skipped, 1 error in" in printed
    for test in ("test_one.py::test_of_an_extra", "test_whole.py"):
        assert f"{test} was skipped, but the full environment should run it" in printed


def test_a_skipped_extra_is_a_skip_elsewhere(tmp_path):
    assert "3 skipped in" in _run(tmp_path, promised="0")


def test_every_test_starts_from_the_same_seed():
    assert torch.initial_seed() == 0
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("nan_empty")
def test_poisoned_memory_shows_where_it_is_read():
    values = torch.zeros(2, 3)
    assert torch.empty(4).isnan().all()
    assert torch.empty_like(values).isnan().all()
    assert values.new_empty(2).isnan().all()
    assert torch.empty(3, dtype=torch.int64).shape == (3,)
    assert torch.zeros(3).add(1).eq(1).all()


def _run(folder: Path, promised: str) -> str:
    (folder / "test_one.py").write_text(SKIPPING)
    (folder / "test_whole.py").write_text(SKIPPING_WHOLE)
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = extras: needs an optional dependency\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    environment = {**os.environ, "LEANFORMER_REQUIRE_EXTRAS": promised, "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False).stdout
