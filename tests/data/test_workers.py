"""Processes that read images begin with everything imported."""

from concurrent.futures import ProcessPoolExecutor

import pytest

from leanformer.data.workers import PRELOADED, start_method


@pytest.mark.skipif(start_method().get_start_method() != "forkserver", reason="spawned processes share nothing")
def test_what_workers_use_is_imported_once_for_all_of_them():
    with ProcessPoolExecutor(1, mp_context=start_method()) as pool:
        assert all(pool.submit(eval, f"{name!r} in __import__('sys').modules").result() for name in PRELOADED)
