"""Who may write into a run's folder: one start at a time, the one that has taken RUN/lock last.

The lock is the system's, so that it goes with its process. That is not enough on several hosts: a file server takes a
lock from a host that it has lost, gives it to the next start, and the first one may come back, thinking that it holds
it. So a start also writes a mark of its own into the file, before it reads anything of the run, and looks whether that
still stands there before whatever it writes: from the moment that another start has the lock, this one writes no more.
"""

import fcntl
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from data.storage.files import open_unlinked
from trainer.errors import DISK_FULL, ConfigError, RunError


class TakenOverError(RunError):
    """Another start trains the run by now."""


class RunLock:
    """The lock of a run's folder, and whether this process has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "lock"
        self._mark: str | None = None

    @contextmanager
    def held(self, patience_seconds: float = 0) -> Iterator[None]:
        """Context that keeps every other start out, until it ends or its process dies.

        `patience_seconds`: how long to wait for another start to leave the run; ConfigError names it then.
        """
        with self._open() as file:
            deadline = time.monotonic() + patience_seconds
            while not _locked(file):
                if time.monotonic() >= deadline:
                    raise self._is_trained(file)
                time.sleep(0.2)

            mark = f"process {os.getpid()} on {socket.gethostname()}, {secrets.token_hex(8)}"
            file.truncate(0)
            file.write(f"{mark}\n")
            file.flush()
            os.fsync(file.fileno())  # a file server's other clients see it from here on
            self._mark = mark
            try:
                yield
            finally:
                self._mark = None

    @property
    def is_lost(self) -> bool:
        """Whether another start has taken the lock since; a process that never had it has not lost it."""
        return self._mark is not None and self._owner() != self._mark

    def check(self) -> None:
        """Raises TakenOverError if the lock is lost."""
        if self.is_lost:
            raise TakenOverError(
                f"run.dir = {str(self._folder)!r} is trained by another start by now ({_name(self._owner())}): this "
                "one was thought lost; it ends, and writes no more into the run"
            )

    def _owner(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return ""

    def _is_trained(self, file: TextIO) -> ConfigError:
        file.seek(0)
        return ConfigError(
            f"run.dir = {str(self._folder)!r} is being trained by {_name(file.read().strip())}; wait for it, stop it, "
            "or name another folder"
        )

    def _open(self) -> TextIO:
        try:
            return open(self.path, "a+", encoding="utf-8", opener=open_unlinked)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise not_usable(self._folder, error) from error


Check = Callable[[], None]
"""Raises TakenOverError where this process may not write any more."""


def not_usable(folder: Path, error: OSError) -> ConfigError:
    """What is wrong with a run's folder."""
    return ConfigError(
        f"run.dir = {str(folder)!r} cannot be used ({error.strerror}); name another folder, or fix its permissions"
    )


def _locked(file: TextIO) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _name(owner: str) -> str:
    """Whose mark it is, without what is random in it."""
    return owner.rpartition(", ")[0] or owner or "another process"
