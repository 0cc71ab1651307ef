"""Notices that a rank is not heard from any more, in a time that does not depend on what the ranks do.

A collective waits for the slowest rank for as long as that works: while rank 0 measures the data, or a disk takes its
time, silence means nothing. So every rank tells the ranks' store once a second that it is there, in a thread of its
own, and looks after the next rank, the last one after the first:

    beat    own counter += 1; has the next rank's changed, has anyone been given up?
    clock   the beat does not come round: the store, or the way to it, does not answer

A rank that is not heard from for `run.collective_seconds` is given up: all others tell so, a line on each host, and end
with 1, so that the launchers can start again without it. It ends likewise, as soon as it can: it hears nothing either.
"""

import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import NoReturn

import torch.distributed as dist

from trainer.distributed.world import World

INTERVAL_SECONDS = 1.0
SLOW_SECONDS = 0.3
"""An answer of the store takes so long where the network is slow or loses packets; on a good one, some milliseconds."""
LOOKS = 5
"""So many answers are judged together."""
WAY_OUT = "all ranks end; start again to resume from the newest checkpoint"


class Pulse:
    """Context in which ranks hear from each other; enter it on all of them. `store` is where they have met."""

    def __init__(self, world: World, store: dist.Store, seconds: float) -> None:
        self._world = world
        self._seconds = seconds
        self._interval = min(INTERVAL_SECONDS, seconds / 10)
        self._next = (world.rank + 1) % world.size
        self._store = dist.PrefixStore("pulse", store.clone())  # type: ignore[attr-defined]
        self._store.set(f"host/{world.rank}", socket.gethostname())
        self._rounds = 0
        self._told_of_speed = world.local_size == world.size  # on one host it is the host that is slow
        self._closing = threading.Event()
        self._answers: deque[float] = deque(maxlen=LOOKS)
        self._threads = [_thread(self._beat), _thread(self._clock)]

    def __enter__(self) -> "Pulse":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """A rank that leaves is not missed; after an error the others may wait for it, and are to hear of it."""
        self._closing.set()
        for thread in self._threads:
            thread.join(2 * self._interval)  # bounded: the store's host may have gone
        if error[0] is None and not self._threads[0].is_alive():
            with suppress(dist.DistError):
                self._store.set(f"left/{self._world.rank}", "")

    def give_up(self, text: str) -> NoReturn:
        """Ends all ranks, with this explanation: the others would wait for one that is lost, or cannot go on."""
        with suppress(dist.DistError):
            self._store.set("given_up", text)
        self._end(text)

    def _beat(self) -> None:
        """The thread that talks to the store, which may not answer."""
        silence = Silence(self._interval)
        with suppress(dist.DistError):  # its host has ended; the clock goes on
            while not self._closing.wait(self._interval):
                begin = time.monotonic()
                self._store.add(f"beats/{self._world.rank}", 1)
                beats = self._store.add(f"beats/{self._next}", 0)
                self._rounds += 1
                self._mind_speed((time.monotonic() - begin) / 2)

                if self._store.check(["given_up"]):
                    self._end(self._store.get("given_up").decode())
                if silence.seconds(beats) >= self._seconds and not self._store.check([f"left/{self._next}"]):
                    self.give_up(self._lost())

    def _clock(self) -> None:
        silence = Silence(self._interval)
        while not self._closing.wait(self._interval):
            if silence.seconds(self._rounds) >= self._seconds:
                self._end(
                    f"{self._world.name} has not reached the store of the ranks for {self._seconds:g} s "
                    "(run.collective_seconds): its host has ended or hangs, or this one is cut off"
                )

    def _lost(self) -> str:
        key = f"host/{self._next}"
        host = f" (host {self._store.get(key).decode()})" if self._store.check([key]) else ""
        return (
            f"rank {self._next}{host} has not been heard from for {self._seconds:g} s (run.collective_seconds): it is "
            "stopped, or its host lost or cut off"
        )

    def _mind_speed(self, seconds: float) -> None:
        """Tells, once, of a network that is slow."""
        self._answers.append(seconds)
        typical = median(self._answers)
        if self._told_of_speed or len(self._answers) < LOOKS or typical <= SLOW_SECONDS:
            return

        self._told_of_speed = True
        self._say(
            f"warning: the store of the ranks takes {typical:.1f} s to answer {self._world.name}: the network is slow "
            "or loses packets, and every step waits for it"
        )

    def _end(self, text: str) -> NoReturn:
        self._say(f"error: {text}; {WAY_OUT}")
        os._exit(1)

    def _say(self, line: str) -> None:
        if self._world.local_rank == 0:  # once a host
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


class Silence:
    """How long a count has stayed the same; time in which this process itself was suspended does not count."""

    def __init__(self, interval: float) -> None:
        self._longest = 2 * interval
        self._count = -1
        self._before = time.monotonic()
        self._seconds = 0.0

    def seconds(self, count: int) -> float:
        """Call it after every interval."""
        now = time.monotonic()
        passed = min(now - self._before, self._longest)
        self._seconds = 0.0 if count != self._count else self._seconds + passed
        self._before, self._count = now, count
        return self._seconds


def _thread(job: Callable[[], None]) -> threading.Thread:
    return threading.Thread(target=job, name=f"watch{job.__name__}", daemon=True)
