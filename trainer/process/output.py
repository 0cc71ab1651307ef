"""Standard output and standard error that do not fail: when nobody reads them, when they are closed, in any encoding.

pipe to `head`, a terminal that is gone    short commands end, as other tools do; a training goes on unread
pipe that is full, a terminal on hold      a training goes on, and what does not fit is lost
closed from the start                      what is written is lost
ASCII, or another small character set      what it does not hold becomes '?', or an escape on standard error
"""

import io
import os
import select
import sys
from select import PIPE_BUF
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PATIENCE_SECONDS = 1.0
"""How long a training waits for the reader of its output, before it goes on without."""


class OutputClosed(Exception):  # noqa: N818 - not an error
    """Nobody reads standard output any more; not an OSError, which libraries have ways of their own to handle."""


class Output(io.FileIO):
    """The raw file below standard output or standard error. Dispensable: what cannot be written now is left out."""

    def __init__(self, descriptor: int, *, dispensable: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.dispensable = dispensable
        self._patience = PATIENCE_SECONDS

    def write(self, data: "ReadableBuffer") -> int:
        """How much of `data` is dealt with."""
        view = memoryview(data).cast("B")
        try:
            return self._write_or_leave_out(view) if self.dispensable else super().write(view)
        except OSError as error:
            if self.dispensable:
                return len(view)
            if isinstance(error, BrokenPipeError):
                raise OutputClosed from error
            raise

    def _write_or_leave_out(self, view: memoryview) -> int:
        ready = select.select([], [self], [], self._patience)[1]
        self._patience = PATIENCE_SECONDS if ready else 0.0
        return super().write(view[:PIPE_BUF]) if ready else len(view)  # so much does not block


def open_output() -> None:
    """Puts safe streams in the place of standard output and standard error."""
    _fill_closed()
    sys.stdout = _stream(sys.stdout, 1, "replace", dispensable=False)
    sys.stderr = _stream(sys.stderr, 2, "backslashreplace", dispensable=True)


def go_on_unread() -> None:
    """From now on, what cannot be written to standard output is left out."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, Output):
        raw.dispensable = True


def _fill_closed() -> None:
    """Opens the first three descriptors where they are closed: the next file opened would be written to as output.

    Worker processes get them too, and would have the same trouble.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: `descriptor`
            os.set_inheritable(nowhere, True)


def _stream(before: TextIO | None, descriptor: int, errors: str, *, dispensable: bool) -> TextIO:
    encoding = before.encoding if before is not None else "utf-8"
    raw = Output(descriptor, dispensable=dispensable)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)
