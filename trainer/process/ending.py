"""How a process of this program ends: the one place.

Python's own way out runs while native threads (gloo, a store's client) are still at work. One that then frees a tensor
and wants the interpreter ends the process with 134 and "terminate called without an active exception", whatever the
exit code was to be. So the process is left at once, when everything has been closed and said.
"""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from trainer.process.output import OutputClosed, open_output
from trainer.process.signals import Interrupted, Interruption, say

GLOO = "gloo/transport"
"""In its errors, which are plain RuntimeErrors: the place in its source where the connection to a rank broke."""


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code, at once."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, OutputClosed):
            stream.flush()
    os._exit(code)


def leave_after(command: Callable[[], int], *, speaks: bool) -> NoReturn:
    """Runs a command and ends this process with its exit code; `speaks`: whether it tells of an end by a signal."""
    open_output()
    with Interruption(speaks=speaks).listening() as interruption:
        try:
            code = _exit_code(command, interruption)
            interruption.over = True
        except Interrupted as ended:  # between the lines
            code = interruption.tell(ended.number)

        leave(code)


def _exit_code(command: Callable[[], int], interruption: Interruption) -> int:
    try:
        code = command()
        sys.stdout.flush()
    except Interrupted as ended:
        return interruption.tell(ended.number)
    except OutputClosed:
        return 128 + signal.SIGPIPE  # as of a tool that does not handle it
    except BaseException as error:
        if interruption.first_signal is not None:  # a rank that lost another one to the same signal
            return interruption.tell(interruption.first_signal)
        if isinstance(error, RuntimeError) and GLOO in str(error):
            say(
                f"error: rank {os.environ.get('RANK', '0')} (host {socket.gethostname()}) has lost another rank, whose "
                "own output says why; start again (a training goes on from its newest checkpoint)"
            )
        else:
            traceback.print_exc()

        return 1

    return code
