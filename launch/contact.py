"""Whether the launchers of a job still hear from each other, at the store where they have met.

    talk    twice a second: own count += 1; has the next node's changed, has one failed for good, do some wait?
    clock   no answer for so long ─► this node is cut off, or the store's host is lost

The talk may get no answer, for many minutes. So the main thread never waits for the store while ranks run: it looks at
what the talk has found, and hears signals. While it does wait, to meet the others, the clock ends the process.
"""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from torch.distributed import DistError, PrefixStore, Store
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousHandler

INTERVAL_SECONDS = 0.5
SILENT_SECONDS = 5.0
"""More than a lossy network takes to answer; at the end nobody waits longer."""
TELL_SECONDS = 3.0
"""How long the others' store may take to hear of a failure."""


class Contact:
    """The two threads of a launcher."""

    def __init__(self, rendezvous: RendezvousHandler, seconds: float, end: Callable[[str], None]) -> None:
        """`end` is called, by the clock, where the others cannot be reached while the main thread waits for them."""
        handler: Any = rendezvous
        self._ask_waiting = handler.num_nodes_waiting
        self._store: Store = handler._store.clone()
        self._seconds = seconds
        self._end = end
        self._lock = threading.Lock()
        """Held while the rendezvous is used, which is not made for two threads."""
        self._nodes: Nodes | None = None
        self._answers = 0
        self._failure = ""
        self._told = threading.Event()
        self._silence = 0.0
        self._main_waits = True
        self.num_waiting = 0
        """Nodes that wait to be let in."""
        self.problem = ""
        """What has become of another node; empty: nothing that is known."""
        self.cut_off = False
        """Whether that is the way to all of them."""
        handler.num_nodes_waiting = lambda: self.num_waiting  # what torch's agent asks all the time
        for job in (self._talk, self._clock):
            threading.Thread(target=job, name=f"contact{job.__name__}", daemon=True).start()

    def leave(self) -> None:
        """The ranks of this start have ended: the nodes are to meet again, or to part. The main thread may wait now."""
        self._main_waits = True
        with self._lock:
            self._nodes = None
            self.num_waiting = 0
            self.problem = self.problem if self.cut_off else ""

    def meet(self, store: Store, node: int, number: int) -> None:
        """The nodes have met, at a store that knows this start alone."""
        nodes = Nodes(store, node, number)
        with self._lock:
            self._nodes = nodes
            self.num_waiting = 0
        self._main_waits = False

    @property
    def is_silent(self) -> bool:
        """Whether the store has not answered for a while, or will not any more."""
        return self.cut_off or self._silence > SILENT_SECONDS

    def tell_failure(self, text: str) -> None:
        """Tells the other nodes that this one has failed for good."""
        self._failure = f"node {socket.gethostname()}: {text}"
        self._told.wait(TELL_SECONDS)

    def _talk(self) -> None:
        try:
            while not self.cut_off:
                self._store.check(["launch/contact"])
                with self._lock:
                    if self._nodes is not None:
                        self._look_at(self._nodes)
                self._answers += 1
                time.sleep(INTERVAL_SECONDS)
        except (DistError, RendezvousError) as error:
            self._lose(f"the store where the nodes meet has gone ({str(error.__cause__ or error).splitlines()[0]})")

    def _look_at(self, nodes: "Nodes") -> None:
        if self._failure:
            nodes.store.set("failed", self._failure)
            self._told.set()
        elif not self.problem:
            self.problem = nodes.problem(self._seconds)
        self.num_waiting = self._ask_waiting()

    def _clock(self) -> None:
        answers = 0
        before = time.monotonic()
        while not self.cut_off:
            time.sleep(INTERVAL_SECONDS)
            now = time.monotonic()
            passed = min(now - before, 2 * INTERVAL_SECONDS)  # more: this process was suspended
            self._silence = self._silence + passed if self._answers == answers else 0.0
            answers, before = self._answers, now
            if self._silence >= self._seconds:
                self._lose(
                    f"this node ({socket.gethostname()}) has not reached the store where the nodes meet for "
                    f"{self._seconds:g} s (COLLECTIVE_SECONDS): it is cut off, or that store's host is lost"
                )

    def _lose(self, problem: str) -> None:
        self.problem = problem
        self.cut_off = True
        if self._main_waits:
            self._end(problem)


class Nodes:
    """The nodes of one start of the ranks."""

    def __init__(self, store: Store, node: int, number: int) -> None:
        self.store = PrefixStore("launch/nodes", store.clone())  # type: ignore[attr-defined]
        self._node, self._next = node, (node + 1) % number
        self._beats, self._silence = -1, 0.0
        self._before = time.monotonic()
        self.store.set(f"host/{node}", socket.gethostname())

    def problem(self, seconds: float) -> str:
        """What has become of another node, in words; empty: nothing. Call it at every interval."""
        self.store.add(f"beats/{self._node}", 1)
        beats = self.store.add(f"beats/{self._next}", 0)
        now = time.monotonic()
        passed = min(now - self._before, 2 * INTERVAL_SECONDS)
        self._silence = self._silence + passed if beats == self._beats else 0.0
        self._beats, self._before = beats, now

        if self.store.check(["failed"]):
            return self.store.get("failed").decode()
        if self._silence < seconds:
            return ""

        key = f"host/{self._next}"
        host = self.store.get(key).decode() if self.store.check([key]) else self._next
        return f"the launcher of node {host} has not been heard from for {seconds:g} s (COLLECTIVE_SECONDS)"
