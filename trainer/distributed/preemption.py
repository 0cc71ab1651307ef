"""Requests to stop a training: Ctrl-C, a closed terminal, SIGTERM or SIGUSR1 as a scheduler sends them.

Nothing is done but to take note. All ranks agree on a step (`trainer.step`), save, and end with exit code 75.
"""

import os
import signal

from trainer.process.signals import SAME_REQUEST_SECONDS, SignalListener, say

STOPPED = 75
"""Exit code: stopped on request after saving; start again to go on (EX_TEMPFAIL)."""


class Stopped(Exception):  # noqa: N818 - not an error
    """The run has been saved and is to end, as requested."""


class StopRequest(SignalListener):
    """Whether this process has been asked to stop; `speaks`: whether it is the one that tells the user."""

    def __init__(self, grace_seconds: float, *, speaks: bool = True) -> None:
        super().__init__()
        self._grace_seconds = grace_seconds
        self._speaks = speaks

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.first_signal is not None

    def _on_first(self) -> None:
        if self._speaks and self.first_signal is not None:
            say(
                f"asked to stop ({signal.Signals(self.first_signal).name}): the run is saved first; asked again after "
                f"{SAME_REQUEST_SECONDS:g} s, it stops at once without saving"
            )

    def _limit_seconds(self) -> float:
        return self._grace_seconds

    def _on_limit(self) -> None:
        say(
            f"error: not stopped within checkpoint.grace_seconds = {self._grace_seconds:g}; the last checkpoint is "
            "whole, start again to go on from it"
        )
        os._exit(1)

    def _on_second(self, number: int) -> None:
        if self._speaks:
            say("stopped at once, as asked again; start again to go on from the newest checkpoint")
        os._exit(128 + number)
