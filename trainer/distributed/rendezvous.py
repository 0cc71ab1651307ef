"""The ranks meet at a store before they join a process group, and end together where one of them cannot take part.

    every rank   arrived += 1, entry/<arrived>   who it is, with its account; or why it cannot go on
    rank 0       reads the entries as they come ─► verdict: all are there and alike, or what is wrong
    every rank   waits for the verdict, heard += 1

Whatever is wrong, all ranks report it within moments, in one line; none is left waiting in a collective.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from data.errors import ExpectedError
from trainer.distributed.agreement import Account, difference
from trainer.distributed.torchrun_env import Ranks
from trainer.errors import ConfigError, RunError

LAST_WORDS_SECONDS = 30.0
"""So long a rank that cannot go on tries to tell the others, and rank 0 keeps the store for those to come."""
RESOLVE_SECONDS = 60.0
"""So long a host name may be unknown: a cluster's name service may learn of a node a little later."""
NAMED_RANKS = 8
"""So many absent ranks are named in a message; the rest are counted."""
STORE_SECONDS = 30.0
"""A store that has been reached answers within this time."""


@dataclass(frozen=True)
class Entry:
    """What a rank says when it comes."""

    rank: int
    size: int
    host: str
    pid: int
    account: Account | None
    """None if the rank cannot go on."""
    problem: str = ""
    wrong_input: bool = True
    """Whether the problem is one of its input."""

    @property
    def name(self) -> str:
        """`rank 1 (host node-1)`."""
        return f"rank {self.rank} (host {self.host})"


@dataclass(frozen=True)
class RollCall:
    """The outcome of the roll call, which rank 0 sends to all."""

    problem: str = ""
    """Empty: all have come, and are alike."""
    wrong_input: bool = True

    def check(self) -> None:
        """Raises the problem, if there is one."""
        if self.problem:
            raise ConfigError(self.problem) if self.wrong_input else RunError(self.problem)


@contextmanager
def told_to_others(ranks: Ranks) -> Iterator[None]:
    """Context in which an error of this rank ends the others, who wait for it."""
    try:
        yield
    except Exception as error:
        is_expected = isinstance(error, ExpectedError | RunError)
        problem = str(error) if is_expected else f"{type(error).__name__}: {error}; its own output says where"
        with suppress(ConfigError, RunError, dist.DistError):  # there may be nobody to tell
            store = connect(ranks, LAST_WORDS_SECONDS)
            entry = _entry(ranks, None, problem, wrong_input=isinstance(error, ExpectedError))
            _arrive(store, entry)
            if ranks.rank == 0:
                _tell(store, RollCall(f"{entry.name}: {problem}", entry.wrong_input), ranks)
            else:
                store.add("heard", 1)

        raise


def answer(store: dist.Store, ranks: Ranks, account: Account, seconds: float) -> None:
    """Returns once all ranks are there, within `seconds`, and alike; else raises the same on all of them."""
    number = _arrive(store, _entry(ranks, account))
    if ranks.rank == 0:
        verdict = _judge(store, ranks, account, seconds)
        _tell(store, verdict, ranks)
        verdict.check()
        return

    try:
        store.wait(["verdict"], timedelta(seconds=seconds + LAST_WORDS_SECONDS))
        verdict = RollCall(**json.loads(store.get("verdict")))
        store.add("heard", 1)
    except dist.DistStoreError as error:
        raise RunError(f"rank 0 of {ranks.size} has not come within {seconds:g} s; {_LOOK_AT_IT}") from error
    except dist.DistNetworkError as error:
        raise RunError(f"{_place(ranks)}, where the ranks meet, has gone before all had come; start again") from error

    verdict.check()
    if number > ranks.size:
        raise ConfigError(_taken(ranks.rank))


_LOOK_AT_IT = "see what became of it, and start all ranks again (slow, not lost? raise run.hang_seconds)"


def _judge(store: dist.Store, ranks: Ranks, account: Account, seconds: float) -> RollCall:
    """Reads the entries until all ranks are there, one cannot go on or differs, or the time is up."""
    come: dict[int, Entry] = {}
    own = _entry(ranks, account)
    deadline = time.monotonic() + seconds

    while len(come) < ranks.size:
        number = len(come) + 1
        if not store.check([f"entry/{number}"]):
            if time.monotonic() > deadline:
                return RollCall(_missing(come, ranks.size, seconds), wrong_input=False)
            time.sleep(0.02)
            continue

        entry = Entry(**json.loads(store.get(f"entry/{number}")))
        problem = _problem(entry, own, come)
        if problem:
            return RollCall(problem, entry.wrong_input)
        come[entry.rank] = entry

    return RollCall()


def _problem(entry: Entry, own: Entry, come: dict[int, Entry]) -> str | None:
    """What is wrong with a rank that has come."""
    if entry.size != own.size:
        return f"WORLD_SIZE is {own.size} on {own.name}, {entry.size} on {entry.name}; start all ranks with one number"

    if entry.rank in come:
        both = (come[entry.rank], entry)
        places = " and ".join(f"process {each.pid} on host {each.host}" for each in both)
        return f"{_taken(entry.rank)}: {places}"

    if entry.account is None:
        return f"{entry.name}: {entry.problem}"

    assert own.account is not None
    return difference(own.account, entry.account, own.name, entry.name)


def _taken(rank: int) -> str:
    return f"RANK={rank} has been given to two processes; give every process a number of its own"


def _missing(come: dict[int, Entry], size: int, seconds: float) -> str:
    absent = [rank for rank in range(size) if rank not in come]
    names = ", ".join(map(str, absent[:NAMED_RANKS]))
    more = len(absent) - NAMED_RANKS

    if more > 0:
        names += f" and {more} more"

    ranks = f"rank {names}" if len(absent) == 1 else f"ranks {names}"
    verb = "has" if len(absent) == 1 else "have"
    return f"{ranks} of {size} {verb} not come within {seconds:g} s; {_LOOK_AT_IT}"


def _entry(ranks: Ranks, account: Account | None, problem: str = "", *, wrong_input: bool = True) -> Entry:
    return Entry(ranks.rank, ranks.size, socket.gethostname(), os.getpid(), account, problem, wrong_input)


def _arrive(store: dist.Store, entry: Entry) -> int:
    """Writes the entry; its number among all."""
    number = store.add("arrived", 1)
    store.set(f"entry/{number}", json.dumps(asdict(entry)))
    return int(number)


def _tell(store: dist.Store, verdict: RollCall, ranks: Ranks) -> None:
    """Writes the verdict; where the store goes with this process, it stays for a while to let the others read it."""
    store.set("verdict", json.dumps(asdict(verdict)))
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    while verdict.problem and ranks.hosts_store and store.add("heard", 0) < ranks.size - 1:
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def connect(ranks: Ranks, seconds: float) -> dist.Store:
    """The store where the ranks meet; raises ConfigError or RunError if it is not reached within `seconds`."""
    if not ranks.hosts_store:
        _reach(ranks, seconds)

    found = _in_time(lambda: _open(ranks), STORE_SECONDS)
    if isinstance(found, dist.Store):
        return dist.PrefixStore(f"roll_call/attempt_{ranks.attempt}", found)  # as torch does with its own keys
    if "EADDRINUSE" in str(found):
        raise ConfigError(
            f"MASTER_PORT={ranks.port} is in use on host {socket.gethostname()}; choose another, or end what uses it"
        )

    raise ConfigError(
        f"{_place(ranks)} is not the ranks' rendezvous; run rank 0 on MASTER_ADDR, and nothing else on MASTER_PORT"
    )


def _open(ranks: Ranks) -> dist.Store:
    return dist.TCPStore(
        ranks.address, ranks.port, ranks.size, ranks.hosts_store, default_pg_timeout, wait_for_workers=False
    )


def _reach(ranks: Ranks, seconds: float) -> None:
    """Waits until something listens there. torch's own client waits too, but not within its timeout."""
    begin = time.monotonic()
    while True:
        passed = time.monotonic() - begin
        try:
            socket.create_connection((ranks.address, ranks.port), timeout=STORE_SECONDS).close()
            return
        except (socket.gaierror, UnicodeError) as error:
            if passed > min(seconds, RESOLVE_SECONDS):
                raise ConfigError(
                    f"MASTER_ADDR={ranks.address!r} cannot be resolved on {socket.gethostname()}; name rank 0's host"
                ) from error
        except OSError as error:
            if passed > seconds:
                what = f"nobody answers at {_place(ranks)} within {seconds:g} s ({error.strerror or error})"
                way_out = "start rank 0 there, and open the port between the nodes"
                raise RunError(f"{what}; {way_out}") from error

        time.sleep(0.2)


def _in_time(function: Callable[[], dist.Store], seconds: float) -> dist.Store | dist.DistError | None:
    """What `function` returns or raises; None if it does neither in time. What torch writes of it is not shown."""
    results: list[dist.Store | dist.DistError] = []

    def run() -> None:
        try:
            results.append(function())
        except dist.DistError as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with _native_errors_hidden():
        thread.start()
        thread.join(seconds)

    return results[0] if results else None


@contextmanager
def _native_errors_hidden() -> Iterator[None]:
    """Context in which nothing reaches standard error: torch writes stacks of native code there that say no more."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)

    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _place(ranks: Ranks) -> str:
    return f"MASTER_ADDR={ranks.address}, MASTER_PORT={ranks.port}"
