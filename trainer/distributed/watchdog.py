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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _world  # there is no public way to the groups of a process

from trainer.distributed.hang_report import (
    MAIN,
    WAY_OUT,
    Place,
    Report,
    current_stacks,
    describe_hang,
    headline,
    innermost,
    rank_name,
    stack_lines,
)
from trainer.distributed.world import World

PATIENCE_SECONDS = 5.0
"""Time for the other ranks' reports; each rank looks for an alarm every second."""


class HangWatchdog:
    """Context in which a hang of any rank ends all of them with a message. Enter it on all ranks.

    `store` joins the ranks (a connection of its own is made); None: this rank watches itself alone. Time counts from
    the first beat on; time in which the whole process is suspended does not count.
    """

    def __init__(self, world: World, store: dist.Store | None, timeout_seconds: float) -> None:
        self._world = world
        self._timeout = timeout_seconds
        self._interval = min(1.0, timeout_seconds / 10)
        self._patience = min(PATIENCE_SECONDS, timeout_seconds)
        self._store = self._connect(store) if store is not None and world.size > 1 else None
        self._what = "start of training"
        self._beats = 0
        self._signs = 0
        self._marks = 0
        self._closing = threading.Event()
        self._wake = threading.Event()
        jobs = [self._mind_clock]

        if self._store is not None:
            jobs.append(self._mind_store)

        self._threads = [_thread(job) for job in jobs]

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

    def alive(self, _: int = 0) -> None:
        """This rank does long work of its own, and goes on with it; ranks may call it unlike often."""
        self._signs += 1

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
        own.set(f"place/{self._world.rank}", json.dumps(asdict(_own_place())))
        return own

    def _mind_clock(self) -> None:
        """The thread that raises this rank's alarm. It does not touch the store, whose host may be what hangs."""
        signs = 0
        quiet_seconds = 0.0
        before = time.monotonic()

        while not self._closing.wait(self._interval):
            now = time.monotonic()
            if self._beats + self._signs != signs or self._beats == 0:
                signs = self._beats + self._signs
                quiet_seconds = 0.0
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
        keys = [f"report/{rank}" for rank in ranks]
        self._await(store, keys, self._patience + 2 * self._interval)

        stored_reports = _read(store, "report", ranks)
        stored_places = _read(store, "place", ranks)
        reports = {rank: Report(**value) for rank, value in stored_reports.items()}
        places = {rank: Place(**value) for rank, value in stored_places.items()}
        _print(describe_hang(self._timeout, self._world.size, reports, places))

    def _end_alone(self) -> None:
        """Ends this rank, which has nobody to ask."""
        report = self._report()
        place = _own_place()
        if self._store is None:
            _print(describe_hang(self._timeout, 1, {0: report}, {0: place}))
        else:
            head = headline(self._timeout, report.what)
            rank = rank_name(self._world.rank, {self._world.rank: place})
            where = f"the store that joins the ranks does not answer, its host may hang; {rank} is in {report.where}"
            _print("\n".join([f"{head}: {where}", *stack_lines(self._world.rank, report), WAY_OUT]))

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
        return Report(self._what, progress, stacks, innermost(stacks[MAIN]))


def _collectives(group: dist.ProcessGroup) -> int:
    """Collectives that this process has started in `group`; a group may have one backend for each kind of device."""
    backends: list[Any] = [group._get_backend(device) for device in group._device_types]
    return sum(backend._get_sequence_number_for_group() for backend in backends)


def _read(store: dist.Store, name: str, ranks: range) -> dict[int, Any]:
    """The values that the ranks have set under `name`."""
    values: dict[int, Any] = {}
    for rank in ranks:
        key = f"{name}/{rank}"
        if store.check([key]):
            values[rank] = json.loads(store.get(key))
    return values


def _own_place() -> Place:
    return Place(socket.gethostname(), os.getpid())


def _thread(job: Callable[[], None]) -> threading.Thread:
    return threading.Thread(target=job, name=f"watch{job.__name__}", daemon=True)


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
