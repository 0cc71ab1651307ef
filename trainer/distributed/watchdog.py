"""Notices that the ranks make no progress, says which of them hangs and where, and ends them all.

Ranks train in lock-step: when one hangs, all the others soon wait for it in a collective, and from outside they look
alike. Two threads of every rank therefore watch it from inside:

    clock   no beat of the loop for `timeout_seconds` ─► alarm
    post    alarm, of this rank or of another ─► this rank's report into the store
            the rank that raised the alarm: collects the reports, tells who hangs
            every rank: ends with exit code 1, so that the launcher can start the group again

Who hangs is read from counters that grow alike on all ranks: a rank that waits in a collective has got further than the
rank that it waits for, which has not started it. A rank that sends no report is stopped, or stuck where no Python runs.
"""

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _world  # there is no public way to the groups of a process

from trainer.distributed.world import World

PACKAGES = ("data/", "models/", "trainer/")
MAIN = "main thread"
FRAMES = 10
"""So many innermost frames of a stack are shown."""
NAMED_RANKS = 8
"""So many ranks are described in a message; the rest are counted."""
PATIENCE_SECONDS = 5.0
"""Time for the other ranks' reports; each rank looks for an alarm every second."""
STATES = {
    "T": "it is stopped, by a signal",
    "t": "it is stopped, by a debugger",
    "D": "it waits in the kernel, for a disk or a file server",
    "Z": "its process has ended",
}
"""What the state letters of /proc/PID/status mean for a rank that does not answer."""
WAY_OUT = "  all ranks end; start again to go on from the newest checkpoint (slow, not hung? raise run.hang_seconds)"


@dataclass(frozen=True)
class Report:
    """What a rank says of itself."""

    what: str
    """What it did last, as told to `beat`."""
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


class HangWatchdog:
    """Context in which a hang of any rank ends all of them with a message. Enter it on all ranks.

    `store` joins the ranks (a connection of its own is made); None: this rank watches itself alone. Time counts from
    the first beat on; time in which the whole process is suspended does not count.
    """

    def __init__(self, world: World, store: dist.Store | None, timeout_seconds: float) -> None:
        self._world, self._timeout = world, timeout_seconds
        self._interval = min(1.0, timeout_seconds / 10)
        self._patience = min(PATIENCE_SECONDS, timeout_seconds)
        self._store = self._connect(store) if store is not None and world.size > 1 else None
        self._what, self._beats, self._marks = "start of training", 0, 0
        self._closing, self._wake = threading.Event(), threading.Event()
        jobs = [self._mind_clock] if self._store is None else [self._mind_clock, self._mind_store]
        self._threads = [threading.Thread(target=job, name=f"watch{job.__name__}", daemon=True) for job in jobs]

    def __enter__(self) -> "HangWatchdog":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def beat(self, what: str) -> None:
        """The loop goes on; `what` completes "no progress in the …". Call it alike on all ranks."""
        self._what = what
        self._beats += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context in which this rank waits for all others. Enter it alike on all ranks."""
        self._marks += 1
        try:
            yield
        finally:
            self._marks += 1

    def close(self) -> None:
        """Ends the watching; an alarm that is being handled ends the process first."""
        self._closing.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(3 * self._patience)  # bounded: the store's host may be what hangs

    def _connect(self, store: dist.Store) -> dist.Store:
        """A connection of its own (an operation holds up all others on its connection), with keys of this watch."""
        own: dist.Store = dist.PrefixStore("watch", store.clone())  # type: ignore[attr-defined]
        times = own.add(f"starts/{self._world.rank}", 1)
        own = dist.PrefixStore(f"{times}", own)
        own.set(f"place/{self._world.rank}", json.dumps(asdict(Place(socket.gethostname(), os.getpid()))))
        return own

    def _mind_clock(self) -> None:
        """The thread that raises this rank's alarm. It does not touch the store, whose host may be what hangs."""
        beats, quiet_seconds, before = 0, 0.0, time.monotonic()
        while not self._closing.wait(self._interval):
            now = time.monotonic()
            if self._beats != beats or self._beats == 0:
                beats, quiet_seconds = self._beats, 0.0
            else:
                quiet_seconds += min(now - before, 2 * self._interval)  # more: the process was suspended

            before = now
            if quiet_seconds >= self._timeout:
                self._wake.set()
                if self._store is None or not self._closing.wait(3 * self._patience):
                    self._end_alone()
                return

    def _mind_store(self) -> None:
        """The thread that talks to the other ranks. Without the store, whose host may have ended, the clock remains."""
        assert self._store is not None
        with suppress(dist.DistError):
            while not self._closing.is_set():
                late = self._wake.wait(self._interval)
                if not self._closing.is_set() and (late or self._store.check(["alarm"])):
                    self._answer(self._store)

            left = replace(self._report(), stacks={}, left=True)
            self._store.set(f"report/{self._world.rank}", json.dumps(asdict(left)))

    def _answer(self, store: dist.Store) -> None:
        """Reports; the first rank to do so tells what all have reported."""
        first = store.add("alarm", 1) == 1
        store.set(f"report/{self._world.rank}", json.dumps(asdict(self._report())))
        if first:
            self._collect(store)
            store.set("told", "")
        else:
            with suppress(dist.DistError):  # its host has told, and ended
                self._await(store, ["told"], 2 * self._patience)

        os._exit(1)

    def _collect(self, store: dist.Store) -> None:
        """Waits for the reports of all ranks, and tells who hangs."""
        ranks = range(self._world.size)
        self._await(store, [f"report/{rank}" for rank in ranks], self._patience + 2 * self._interval)
        reports = {rank: Report(**value) for rank, value in _read(store, "report", ranks).items()}
        places = {rank: Place(**value) for rank, value in _read(store, "place", ranks).items()}
        _print(describe_hang(self._timeout, self._world.size, reports, places))

    def _end_alone(self) -> None:
        """Ends this rank, which has nobody to ask."""
        report, place = self._report(), Place(socket.gethostname(), os.getpid())
        if self._store is None:
            _print(describe_hang(self._timeout, 1, {0: report}, {0: place}))
        else:
            head = _head(self._timeout, report.what)
            rank = _name(self._world.rank, {self._world.rank: place})
            where = f"the store that joins the ranks does not answer, its host may hang; {rank} is in {report.where}"
            _print("\n".join([f"{head}: {where}", *_stack_lines(self._world.rank, report), WAY_OUT]))

        os._exit(1)

    @staticmethod
    def _await(store: dist.Store, keys: list[str], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not store.check(keys) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _report(self) -> Report:
        stacks = current_stacks()
        counts = [_collectives(group) for group in list(_world.pg_map)]
        progress = [self._beats, sum(counts[:1]), self._marks, sum(counts[1:])]
        return Report(self._what, progress, stacks, _innermost(stacks[MAIN]))


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
    least = min(((report.progress, report.left) for report in reports.values()), default=None)
    return silent or [rank for rank, report in sorted(reports.items()) if (report.progress, report.left) == least]


def describe_hang(seconds: float, size: int, reports: dict[int, Report], places: dict[int, Place]) -> str:
    """The message: who hangs, where, with the stacks of the guilty; one line for each rank that waits."""
    guilty = find_guilty(size, reports)
    waiting = [rank for rank in range(size) if rank not in guilty]
    what = min(reports.values(), key=lambda report: report.progress).what
    told = [_accusation(rank, reports.get(rank), places) for rank in guilty[:NAMED_RANKS]]
    lines = [f"{_head(seconds, what)}: {'; '.join(told)}{_more(guilty)}"]

    for rank in guilty[:NAMED_RANKS]:
        if rank in reports:
            lines += _stack_lines(rank, reports[rank])

    if waiting:
        told = [f"rank {rank} in {reports[rank].where}" for rank in waiting[:NAMED_RANKS]]
        lines.append(f"  meanwhile {'; '.join(told)}{_more(waiting)}")

    return "\n".join([*lines, WAY_OUT])


def _head(seconds: float, what: str) -> str:
    return f"error: no progress for {seconds:g} s in the {what}"


def _more(ranks: list[int]) -> str:
    return f"; and {len(ranks) - NAMED_RANKS} more ranks" if len(ranks) > NAMED_RANKS else ""


def _name(rank: int, places: dict[int, Place]) -> str:
    place = places.get(rank)
    return f"rank {rank}" + (f" (host {place.host}, pid {place.pid})" if place is not None else "")


def _accusation(rank: int, report: Report | None, places: dict[int, Place]) -> str:
    name = _name(rank, places)
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


def _stack_lines(rank: int, report: Report) -> list[str]:
    lines = []
    for thread, frames in report.stacks.items():
        lines += [f"  rank {rank}, {thread}, innermost first:", *(f"    {frame}" for frame in frames[:FRAMES])]
    return lines


def _lines(frame: FrameType) -> list[str]:
    """`function (file:line)` of each frame, the innermost first; no source file is read, a disk may be what hangs."""
    return [
        f"{each.f_code.co_name} ({_shorten(each.f_code.co_filename)}:{number})"
        for each, number in traceback.walk_stack(frame)
    ]


def _innermost(lines: list[str]) -> str:
    project = next(filter(_of_project, lines), lines[0])
    return lines[0] if project == lines[0] else f"{lines[0]}, called from {project}"


def _shorten(file: str) -> str:
    """The path from the folder on that it was imported from."""
    folders = [folder for folder in sys.path if folder and file.startswith(folder.rstrip("/") + "/")]
    return file.removeprefix(max(folders, key=len, default="").rstrip("/")).lstrip("/") if folders else file


def _of_project(line: str) -> bool:
    return line.partition(" (")[2].startswith(PACKAGES)


def _collectives(group: dist.ProcessGroup) -> int:
    """Collectives that this process has started in `group`; a group may have one backend for each kind of device."""
    backends: list[Any] = [group._get_backend(device) for device in group._device_types]
    return sum(backend._get_sequence_number_for_group() for backend in backends)


def _read(store: dist.Store, name: str, ranks: range) -> dict[int, Any]:
    """The values that the ranks have set under `name`."""
    return {rank: json.loads(store.get(f"{name}/{rank}")) for rank in ranks if store.check([f"{name}/{rank}"])}


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
