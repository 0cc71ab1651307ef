"""Runs `adatt` as users do, in a process with descriptors, environment and signals of its own, by a fork server.

The process is left by the program's own way out (`trainer.process.ending`), so its exit code is what a shell would see.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.ranks import _CONTEXT

TIME_LIMIT_SECONDS = 300.0


class Command:
    """A command under way."""

    def __init__(self, process: BaseProcess, out: Path, errors: Path) -> None:
        self.process, self._out, self._errors = process, out, errors

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self.process.pid is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits for something that it does; AssertionError where it ends before, or does not do it in time."""
        deadline = time.monotonic() + TIME_LIMIT_SECONDS
        while not condition():
            assert self.process.is_alive(), f"ended with {self.process.exitcode}: {self.errors}"
            assert time.monotonic() < deadline, f"waiting for too long; so far: {self.errors}"
            time.sleep(0.01)

    def end(self) -> int:
        """Its exit code; AssertionError where it does not end."""
        self.process.join(TIME_LIMIT_SECONDS)
        assert self.process.exitcode is not None, "it does not end"
        return self.process.exitcode

    @property
    def out(self) -> str:
        """What it has written to standard output, where that is a file."""
        return self._out.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        """What it has written to standard error."""
        return self._errors.read_text(encoding="utf-8") if self._errors.exists() else ""


@contextmanager
def started_command(
    folder: Path,
    *arguments: str,
    stdout: int | None = None,
    prepare: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Command]:
    """`adatt arguments`, killed at the end. Its output goes to `folder`, or to the descriptor `stdout`.

    `prepare` runs in the process before; it must be importable.
    """
    number = len(list(folder.glob("output-*")))
    out, errors = folder / f"output-{number}", folder / f"errors-{number}"
    out.touch()
    job = (arguments, str(out), str(errors), _sent(stdout), prepare, dict(environment or {}))
    process = _CONTEXT.Process(target=_main, args=job)  # no daemon, which may have no children
    process.start()
    try:
        yield Command(process, out, errors)
    finally:
        process.kill()
        process.join()


def run_command(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `adatt arguments`."""
    with started_command(folder, *arguments, environment=environment) as command:
        return command.end(), command.out, command.errors


def _sent(descriptor: int | None) -> object:
    """A descriptor as it can be given to a process of the fork server."""
    return None if descriptor is None else multiprocessing.reduction.DupFd(descriptor)  # type: ignore[attr-defined]


def _main(
    arguments: tuple[str, ...],
    out: str,
    errors: str,
    stdout: object,
    prepare: Callable[[], None] | None,
    environment: dict[str, str],
) -> None:
    from trainer.__main__ import main

    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.dup2(os.open(out, flags) if stdout is None else stdout.detach(), 1)  # type: ignore[attr-defined]
    os.dup2(os.open(errors, flags), 2)
    os.environ |= environment
    sys.argv = ["adatt", *arguments]
    if prepare is not None:
        prepare()
    main()
