"""The processes that read images: they begin cheaply, and end with the process that trains and not before."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any

PRELOADED = ("leanformer.data.loading", "timm.data.transforms_factory")
"""Modules that workers use."""


def start_method() -> BaseContext:
    """How workers begin. Forked ones could inherit a lock that another thread holds, so they come from a clean process,
    which imports once, for all of them, what each would need seconds and hundreds of megabytes for."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *PRELOADED])
    return context


@contextmanager
def signals_held() -> Iterator[None]:
    """What asks a run to stop waits for the end of this context; in processes that begin within it, for ever.

    Ctrl-C reaches every process of a terminal, and SIGTERM often every one of a job, but when to stop is for the one
    that trains to decide.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield  # Windows
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # begins with the first worker otherwise, and releases what is held
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_reader(worker: int) -> None:
    """Let the process that trains decide when this one stops.

    A process that is killed takes only its children with it, whereas workers are those of the process that they were
    forked from, which lives as long as any of them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reader = multiprocessing.parent_process()
    if reader is None:
        return
    threading.Thread(target=_end_with, args=(reader,), daemon=True).start()
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by, args=(reader.pid,), daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):  # macOS does not say who sends a signal
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_with(process: Any) -> None:
    process.join()
    os._exit(1)


def _end_by(sender: int | None) -> None:
    """Take a SIGTERM of that process alone: it sends one, and waits, when python exits with workers left."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        pass
    os._exit(0)
