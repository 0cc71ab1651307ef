"""Signals that ask this process to end: Ctrl-C, a closed terminal, a scheduler's SIGTERM or SIGUSR1.

What they mean depends on what is going on: `Interruption` for a command that can simply end,
`trainer.distributed.preemption.StopRequest` while a run is trained, which has something to save. The inner of two
contexts gets the signals.

Imports nothing heavy: signals must be heard before torch has been imported.
"""

import os
import select
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SAME_REQUEST_SECONDS = 5.0
"""A second signal within this time is the first one delivered twice: by the terminal or scheduler, and the launcher."""
NATIVE_SECONDS = 2.0
"""How long the main thread may take to hear of a signal: it may wait in native code, for other ranks to join."""
WAKE_SECONDS = 0.05
"""How often it is woken meanwhile."""
CLEANING_SECONDS = 30.0
"""How long a command may take to remove what it has half written."""


class Interrupted(BaseException):
    """The command is to end, having removed what it has half written."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class SignalListener(ABC):
    """Context in which signals are heard; those that are ignored (SIGHUP under nohup) stay ignored.

    A thread takes them from a pipe that Python's own handler fills at once: the main thread may be inside a
    collective, where handlers written in Python wait, for ever if another rank has died.
    """

    def __init__(self) -> None:
        self.first_signal: int | None = None
        self._done = False

    @abstractmethod
    def _on_first(self) -> None:
        """The first signal has come; in the thread."""

    @abstractmethod
    def _limit_seconds(self) -> float:
        """How long after the first signal the process may go on."""

    @abstractmethod
    def _on_limit(self) -> None:
        """The process has not ended in time; in the thread."""

    @abstractmethod
    def _on_second(self, number: int) -> None:
        """A second signal, later than `SAME_REQUEST_SECONDS`, demands an end at once; in the thread."""

    def _in_main_thread(self, number: int, frame: FrameType | None) -> None:  # noqa: B027 - most need not
        """A signal has come; in the main thread, as soon as that runs Python code."""

    @contextmanager
    def listening(self) -> Iterator[Self]:
        """Call it in the main thread."""
        receiver, sender = os.pipe()
        os.set_blocking(sender, False)
        heard = heard_signals()
        before = [(number, signal.signal(number, self._in_main_thread)) for number in heard]
        descriptor = signal.set_wakeup_fd(sender)
        thread = threading.Thread(target=self._receive_all, args=(receiver, heard), name="signals", daemon=True)
        thread.start()

        try:
            yield self
        finally:
            self._done = True
            asked = self.first_signal is not None
            for number, handler in before:
                signal.signal(number, signal.SIG_IGN if asked else handler)  # it is ending as asked
            signal.set_wakeup_fd(descriptor)
            os.close(sender)
            thread.join()
            os.close(receiver)

    def _receive_all(self, receiver: int, heard: list[signal.Signals]) -> None:
        """Until the pipe is closed, in a thread of its own."""
        first = 0.0
        while True:
            left = None if self.first_signal is None else first + self._limit_seconds() - time.monotonic()
            if left is not None and left <= 0:
                self._on_limit()
            if not select.select([receiver], [], [], left)[0]:
                continue
            numbers = os.read(receiver, 16)
            if not numbers or self._done:
                return
            wanted = [number for number in numbers if number in heard]
            if wanted and self.first_signal is None:
                self.first_signal = wanted[0]
                first = time.monotonic()
                self._on_first()
            elif wanted and time.monotonic() - first > SAME_REQUEST_SECONDS:
                self._on_second(wanted[0])


class Interruption(SignalListener):
    """Signals end the command: an exception in the main thread, or the process where that does not hear of it.

    `speaks`: whether this process tells of its end.
    """

    def __init__(self, *, speaks: bool) -> None:
        super().__init__()
        self.over = False
        """Whether the command has ended, so that there is nothing to interrupt."""
        self._speaks = speaks
        self._raised = False

    def _in_main_thread(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if not self._raised and not self.over:  # a second one must not disturb the cleaning up
            self._raised = True
            raise Interrupted(number)

    def tell(self, number: int) -> int:
        """Tells of the end by a signal; the exit code, which is what a shell would make of it."""
        if self._speaks:
            say(f"ended by {signal.Signals(number).name}")
        return 128 + number

    def _on_first(self) -> None:
        """Wakes the main thread: a wait that it began as the signal came, or as another thread took it, goes on."""
        assert self.first_signal is not None
        main = threading.main_thread().ident
        assert main is not None
        until = time.monotonic() + NATIVE_SECONDS

        while not self._raised and not self.over and time.monotonic() < until:
            signal.pthread_kill(main, self.first_signal)
            time.sleep(WAKE_SECONDS)

    def _limit_seconds(self) -> float:
        return CLEANING_SECONDS if self._raised else NATIVE_SECONDS

    def _on_limit(self) -> None:
        assert self.first_signal is not None
        os._exit(self.tell(self.first_signal))

    def _on_second(self, number: int) -> None:
        os._exit(self.tell(number))


def heard_signals() -> list[signal.Signals]:
    """Those of `END_SIGNALS` that are not ignored, as under nohup, or once the process has been asked to end."""
    return [number for number in END_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def say(line: str) -> None:
    """Writes a line to standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
