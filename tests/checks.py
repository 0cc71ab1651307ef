"""What checks of the whole program on a real machine share: the table that they print, and the tools that they need.

Such a check is a module of its own (`make image-check`, `make slurm-check`). It prints a row for each thing that it has
seen, ends with 1 after the first that is wrong, and skips, with the reason, on a machine that cannot run it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trainer.analysis.audit.audit import audit_run
from trainer.run.directory import RunDirectory
from trainer.run.starts import read_starts

TIME_LIMIT_SECONDS = 600
"""Of one command."""
ERROR_LINES = 40
"""Of the output of a command that has failed."""


class Table:
    """A Markdown table on standard output, a row for each check, with its seconds."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._say("| what | seen | s |\n|---|---|---|\n")

    @contextmanager
    def row(self, what: str) -> Iterator[list[str]]:
        """A check: its body appends what it sees. SystemExit (1) where it raises, after the row and the reason."""
        begin, seen = time.monotonic(), list[str]()
        try:
            yield seen
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            self._say(f"| {what} | **FAILED** | {time.monotonic() - begin:.0f} |\n")
            sys.stderr.write(f"{what}: {_reason(error)}\n")
            sys.exit(1)
        self._say(f"| {what} | {'; '.join(seen)} | {time.monotonic() - begin:.0f} |\n")

    def close(self) -> None:
        """The line below the table."""
        self._say(f"\nAll as it should be, in {time.monotonic() - self._begin:,.0f} s.\n")

    def _say(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _reason(error: Exception) -> str:
    """What went wrong, with the end of the output of a command."""
    output = getattr(error, "stderr", None) or getattr(error, "stdout", None) or ""
    lines = [*str(error).splitlines(), *str(output).splitlines()[-ERROR_LINES:]]
    return "\n".join(lines) or repr(error)


def run(*command: str | Path, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """Standard output of a command, run in a folder; raises SubprocessError if it fails, or takes too long."""
    variables = {**os.environ, **(environment or {})}
    words = [str(word) for word in command]
    ended = subprocess.run(
        words, check=True, capture_output=True, text=True, env=variables, cwd=folder, timeout=TIME_LIMIT_SECONDS
    )
    return ended.stdout


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Raises AssertionError if the condition does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {seconds:.0f} s"
        time.sleep(0.2)


def rows_once(folder: Path) -> str:
    """What `adatt audit` counts in a run of at most one epoch; AssertionError unless every row was trained once."""
    audit = audit_run(folder)
    once = sum(epoch.trained_once for epoch in audit.epochs)
    more = sum(epoch.trained_more for epoch in audit.epochs)
    reached = read_starts(RunDirectory(folder).segments)[-1].reached
    assert (once, more, audit.promises_broken) == (reached, 0, ()), f"{audit}, {reached:,} samples trained"
    return f"`adatt audit`: {once:,} rows trained once, none twice"


def missing_tools(packages: Mapping[str, Iterable[str]]) -> str | None:
    """Why this machine lacks the tools of Debian packages, {package: its programs}; None once all are there.

    Root on Debian gets those that are missing.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs Linux, and root"

    lacking = [name for name, programs in packages.items() if not all(map(shutil.which, programs))]
    if not lacking:
        return None
    if not shutil.which("apt-get"):
        return f"no {', no '.join(lacking)}, and no apt-get to install them"

    sys.stderr.write(f"installing Debian's {' '.join(lacking)}\n")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run("apt-get", "update", environment=quiet)
        run("apt-get", "install", "--yes", "--no-install-recommends", *lacking, environment=quiet)
    except subprocess.SubprocessError as error:
        return f"apt-get cannot install {' '.join(lacking)}: {_reason(error)}"
    return None


def refused(*command: str) -> str | None:
    """Why this machine does not let a command run which makes namespaces; None where it does."""
    try:
        run(*command, "true")
    except (OSError, subprocess.SubprocessError) as error:
        return f"this machine gives no namespaces: {_reason(error)}"
    return None


def skip(reason: str) -> int:
    """The exit code of a check that this machine cannot run, after saying why."""
    sys.stdout.write(f"skipped: {reason}\n")
    return 0


def end_on_sigterm() -> None:
    """SIGTERM ends the check as Ctrl-C does, by an exception: what it has started and mounted is taken down."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
