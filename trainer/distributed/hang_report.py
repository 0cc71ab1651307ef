"""Which rank hangs, and where: what each rank reports of itself, and the message that is made of all reports.

Who hangs is read from counters that grow alike on all ranks: a rank that waits in a collective has got further than the
rank that it waits for, which has not started it. A rank that sends no report is stopped, or stuck where no Python runs.
"""

import socket
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

PACKAGES = ("data/", "models/", "trainer/")
MAIN = "main thread"
FRAMES = 10
"""So many innermost frames of a stack are shown."""
NAMED_RANKS = 8
"""So many ranks are described in a message; the rest are counted."""
STATES = {
    "T": "it is stopped, by a signal",
    "t": "it is stopped, by a debugger",
    "D": "it waits in the kernel, for a disk or a file server",
    "Z": "its process has ended",
}
"""What the state letters of /proc/PID/status mean for a rank that does not answer."""
WAY_OUT = "  all ranks end; start again to resume from the newest checkpoint (slow, not hung? raise run.hang_seconds)"


@dataclass(frozen=True)
class Report:
    """What a rank says of itself."""

    what: str
    """What it did last: the argument of `HangWatchdog.beat`."""
    progress: list[int]
    """Counters that grow in program order, the coarsest first; alike on ranks that have come equally far."""
    stacks: dict[str, list[str]]
    """Frames of the main thread and of the project's other threads, the innermost first."""
    where: str
    """The main thread's innermost frame, and the project's frame that it was called from."""
    left: bool = False
    """Whether it has left the loop."""


@dataclass(frozen=True)
class Place:
    """Where a rank's process runs."""

    host: str
    pid: int


def current_stacks() -> dict[str, list[str]]:
    """The frames of the main thread and of other threads in the project's code, by thread, the innermost first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    stacks: dict[str, list[str]] = {MAIN: []}

    for ident, frame in sys._current_frames().items():
        name = MAIN if ident == main else names.get(ident, "native thread")
        lines = _lines(frame)
        if name == MAIN or (not name.startswith("watch") and any(map(_of_project, lines))):
            stacks[name] = lines

    return stacks


def find_guilty(size: int, reports: dict[int, Report]) -> list[int]:
    """The ranks that the others wait for: those that do not answer, or else those that have come least far."""
    silent = [rank for rank in range(size) if rank not in reports]
    if silent:
        return silent

    reached = {rank: (report.progress, report.left) for rank, report in sorted(reports.items())}
    least = min(reached.values())
    return [rank for rank, progress in reached.items() if progress == least]


def describe_hang(seconds: float, size: int, reports: dict[int, Report], places: dict[int, Place]) -> str:
    """The message: who hangs, where, with the stacks of the guilty; one line for each rank that waits."""
    guilty = find_guilty(size, reports)
    waiting = [rank for rank in range(size) if rank not in guilty]
    what = min(reports.values(), key=lambda report: report.progress).what
    accusations = [_accusation(rank, reports.get(rank), places) for rank in guilty[:NAMED_RANKS]]
    lines = [f"{headline(seconds, what)}: {'; '.join(accusations)}{_more(guilty)}"]

    for rank in guilty[:NAMED_RANKS]:
        if rank in reports:
            lines += stack_lines(rank, reports[rank])

    if waiting:
        named = waiting[:NAMED_RANKS]
        whereabouts = [f"rank {rank} in {reports[rank].where}" for rank in named]
        lines.append(f"  meanwhile {'; '.join(whereabouts)}{_more(waiting)}")

    return "\n".join([*lines, WAY_OUT])


def headline(seconds: float, what: str) -> str:
    """How the message begins."""
    return f"error: no progress for {seconds:g} s in the {what}"


def _more(ranks: list[int]) -> str:
    return f"; and {len(ranks) - NAMED_RANKS} more ranks" if len(ranks) > NAMED_RANKS else ""


def rank_name(rank: int, places: dict[int, Place]) -> str:
    """`rank 1 (host node-1, pid 123)`, as far as that is known."""
    place = places.get(rank)
    if place is None:
        return f"rank {rank}"
    return f"rank {rank} (host {place.host}, pid {place.pid})"


def _accusation(rank: int, report: Report | None, places: dict[int, Place]) -> str:
    name = rank_name(rank, places)
    if report is None:
        return f"{name} does not answer: {_silence(places.get(rank))}"
    return f"{name} has left the training loop" if report.left else f"{name} hangs in {report.where}"


def _silence(place: Place | None) -> str:
    """Why a process does not answer, as far as can be seen from here."""
    if place is None:
        return "it has not begun to train"
    if place.host != socket.gethostname():
        return "stopped, cut off, or stuck in native code that holds the interpreter"

    try:
        status = Path(f"/proc/{place.pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "its process has ended"

    letter = status.partition("State:")[2].strip()[:1]
    return STATES.get(letter, "it is stuck in native code that holds the interpreter")


def stack_lines(rank: int, report: Report) -> list[str]:
    """The stacks of a rank, thread by thread."""
    lines = []
    for thread, frames in report.stacks.items():
        lines.append(f"  rank {rank}, {thread}, innermost first:")
        lines += [f"    {frame}" for frame in frames[:FRAMES]]
    return lines


def _lines(frame: FrameType) -> list[str]:
    """`function (file:line)` of each frame, the innermost first; no source file is read, a disk may be what hangs."""
    lines = []
    for each, line_number in traceback.walk_stack(frame):
        code = each.f_code
        lines.append(f"{code.co_name} ({_shorten(code.co_filename)}:{line_number})")
    return lines


def innermost(lines: list[str]) -> str:
    """The innermost frame, and the innermost one of the project if that is another."""
    project = next(filter(_of_project, lines), lines[0])
    return lines[0] if project == lines[0] else f"{lines[0]}, called from {project}"


def _shorten(file: str) -> str:
    """The path from the folder on that it was imported from."""
    above = [folder.rstrip("/") + "/" for folder in sys.path if folder]
    containing = [folder for folder in above if file.startswith(folder)]
    return file.removeprefix(max(containing, key=len)) if containing else file


def _of_project(line: str) -> bool:
    return line.partition(" (")[2].startswith(PACKAGES)
