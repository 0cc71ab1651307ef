"""Requests to stop: SIGTERM or SIGUSR1, as schedulers send them before they take a machine away.

Nothing is done but to take note. All ranks agree on a step (`trainer.guard`), save, and end with exit code 75.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STOPPED = 75
"""Exit code: stopped on request after saving; start again to go on (EX_TEMPFAIL)."""
SAME_REQUEST_SECONDS = 5.0
"""A second signal within this time is the first one delivered twice: by the scheduler and by the launcher."""


class Stopped(Exception):  # noqa: N818 - not an error
    """The run has been saved and is to end, as requested."""


class StopRequest:
    """Whether this process has been asked to stop.

    A thread takes the signals from a pipe that Python's own handler fills at once: the main thread may be inside a
    collective, where handlers written in Python wait, for ever if another rank has died.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.requested = False
        self._grace_seconds = grace_seconds
        self._done = False

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Context in which signals are requests."""
        receiver, sender = os.pipe()
        os.set_blocking(sender, False)
        before = [(number, signal.signal(number, lambda *_: None)) for number in SIGNALS]
        descriptor = signal.set_wakeup_fd(sender)
        thread = threading.Thread(target=self._receive_all, args=(receiver,), name="stop", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._done = True
            for number, handler in before:
                signal.signal(number, signal.SIG_IGN if self.requested else handler)  # it is ending as asked
            signal.set_wakeup_fd(descriptor)
            os.close(sender)
            thread.join()
            os.close(receiver)

    def _receive_all(self, receiver: int) -> None:
        """Until the pipe is closed, in a thread of its own."""
        first: float | None = None
        while True:
            left = None if first is None else max(first + self._grace_seconds - time.monotonic(), 0)
            if not select.select([receiver], [], [], left)[0]:
                self._give_up()
            numbers = os.read(receiver, 16)
            if not numbers or self._done:
                return
            wanted = [number for number in numbers if number in SIGNALS]
            if wanted and first is None:
                self.requested, first = True, time.monotonic()
            elif wanted and first is not None and time.monotonic() - first > SAME_REQUEST_SECONDS:
                os._exit(128 + wanted[0])

    def _give_up(self) -> None:
        sys.stderr.write(
            f"error: not stopped within checkpoint.grace_seconds = {self._grace_seconds:g}; the last checkpoint is "
            "whole, start again to go on from it\n"
        )
        sys.stderr.flush()
        os._exit(1)
