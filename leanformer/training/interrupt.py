"""Ctrl-C and SIGTERM end a run between two steps, so that nothing is lost; a second Ctrl-C ends it at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, ClassVar

from leanformer.errors import LeanformerError

log = logging.getLogger(__name__)


class Interrupted(LeanformerError):
    """The run was asked to stop, saved itself and can be resumed; the message says how."""

    exit_code: ClassVar[int] = 130


class StopRequest:
    """A context in which SIGINT and SIGTERM set `requested` instead of ending the process.

    Outside of the main thread, where python cannot handle signals, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker process that inherited the handler
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("stopping after this step and saving; press Ctrl-C again to stop at once")
