"""Requests to stop: SIGTERM or SIGUSR1, as schedulers send them before they take a machine away.

The handler only takes note. All ranks agree on a step (`trainer.guard`), save, and end with exit code 75.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STOPPED = 75
"""Exit code: stopped on request after saving; start again to go on (EX_TEMPFAIL)."""
SAME_REQUEST_SECONDS = 5.0
"""A second signal within this time is the first one delivered twice: by the scheduler and by the launcher."""


class Stopped(Exception):  # noqa: N818 - not an error
    """The run has been saved and is to end, as requested."""


class StopRequest:
    """Whether this process has been asked to stop."""

    def __init__(self, grace_seconds: float) -> None:
        self.requested = False
        self._grace_seconds = grace_seconds
        self._first = 0.0

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Context in which signals are requests."""
        before = [(number, signal.signal(number, self._receive)) for number in SIGNALS]
        try:
            yield self
        finally:
            for number, handler in before:
                signal.signal(number, signal.SIG_IGN if self.requested else handler)  # it is ending as asked
            self.requested = False

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if not self.requested:
            self.requested, self._first = True, time.monotonic()
            timer = threading.Timer(self._grace_seconds, self._give_up)
            timer.daemon = True
            timer.start()
        elif time.monotonic() - self._first > SAME_REQUEST_SECONDS:
            os._exit(128 + number)

    def _give_up(self) -> None:
        if not self.requested:
            return
        sys.stderr.write(
            f"error: not stopped within checkpoint.grace_seconds = {self._grace_seconds:g}; the last checkpoint is "
            "whole, start again to go on from it\n"
        )
        sys.stderr.flush()
        os._exit(1)
