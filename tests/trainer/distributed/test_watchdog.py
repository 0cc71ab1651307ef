"""A hang of one rank ends all that can be ended, and is told once, with the name of that rank and where it hangs."""

import ctypes
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from tests.ranks import run_on_ranks, started_ranks
from trainer.distributed.hang_report import NAMED_RANKS, Place, Report, describe_hang, find_guilty
from trainer.distributed.watchdog import HangWatchdog
from trainer.distributed.world import World

TIMEOUT = 1.0
PLACE = r"\(host \S+, pid \d+\)"
HEAD = r"error: no progress for 1 s in the step at 3 samples: "
CUT = r"\(.*tests/trainer/distributed/test_watchdog\.py:\d+\)"


# What a rank does instead of going on.


def read_from_nowhere() -> None:
    time.sleep(600)


def wait_for_data() -> None:
    """As the loop does, while a thread of the project cannot get them."""
    decode = in_file("data/columns/decode.py", "def decode():\n    read_from_nowhere()")
    next_batch = in_file("data/prefetch.py", "def next_batch():\n    thread.join()")
    thread = threading.Thread(target=decode, name="prefetch", daemon=True)
    next_batch.__globals__["thread"] = thread
    thread.start()
    next_batch()


def in_file(file: str, source: str) -> FunctionType:
    """The function that stands in `source`, as if that were the text of a file of the project."""
    values: dict[str, Any] = {"read_from_nowhere": read_from_nowhere}
    exec(compile(source, file, "exec"), values)
    return next(value for value in reversed(values.values()) if isinstance(value, FunctionType))


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_the_interpreter() -> None:
    ctypes.PyDLL(None).sleep(600)


# A loop in which ranks do so, and the messages that come of it.


@pytest.fixture
def port() -> Iterator[int]:
    """Port of a store outside the ranks, as torchrun's is."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    yield store.port
    del store


def send_errors_to(file: str) -> None:
    os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)


def meet_unmarked(group: dist.ProcessGroup, watch: HangWatchdog) -> None:  # noqa: ARG001
    """Collectives under way together, as those of the embeddings are."""
    pending = [dist.all_reduce(torch.zeros(1), async_op=True) for _ in range(3)]
    for work in pending:
        assert work is not None
        work.wait()


def meet_marked(group: dist.ProcessGroup, watch: HangWatchdog) -> None:
    with watch.waiting():
        dist.all_reduce(torch.zeros(1), group=group)


def meet_in_own_group(group: dist.ProcessGroup, watch: HangWatchdog) -> None:  # noqa: ARG001
    dist.all_reduce(torch.zeros(1), group=group)


Meeting = Callable[[dist.ProcessGroup, HangWatchdog], None]


def loop(world: World, port: int, errors: str, actions: dict[int, Callable[[], None]], meet: Meeting) -> None:
    """Three good steps; in the fourth some ranks do as `actions` says before they would meet the others."""
    send_errors_to(errors)
    group = dist.new_group(backend="gloo")
    store = dist.TCPStore("localhost", port, wait_for_workers=False)
    with HangWatchdog(world, store, TIMEOUT) as watch:
        for step in range(4):
            watch.beat(f"step at {step} samples")
            if step == 3:
                actions.get(world.rank, lambda: None)()
            meet(group, watch)


def outcome(
    tmp_path: Path, port: int, size: int, actions: dict[int, Callable[[], None]], meet: Meeting = meet_unmarked
) -> tuple[str, list[int | None]]:
    """What was told, and the exit codes; None where a process does not end."""
    errors = tmp_path / "errors"
    ends = [rank for rank in range(size) if actions.get(rank) not in (stop, hold_the_interpreter)]
    with started_ranks(size, loop, port, str(errors), actions, meet) as (processes, _):
        for rank in ends:
            processes[rank].join(20)
        codes = [process.exitcode for process in processes]
    return errors.read_text(), codes


@pytest.mark.parametrize(("guilty", "meet"), [(0, meet_unmarked), (1, meet_marked)])
def test_rank_that_hangs_is_named_with_where(tmp_path: Path, port: int, guilty: int, meet: Meeting) -> None:
    told, codes = outcome(tmp_path, port, 2, {guilty: read_from_nowhere}, meet)
    assert re.match(rf"{HEAD}rank {guilty} {PLACE} hangs in read_from_nowhere {CUT}\n", told), told
    assert re.search(rf"\n  rank {guilty}, main thread, innermost first:\n    read_from_nowhere {CUT}\n    loop ", told)
    assert re.search(rf"\n  meanwhile rank {1 - guilty} in \w+ \(", told)
    assert told.count("error: ") == 1
    assert codes == [1, 1]


def test_two_of_three_ranks_hang(tmp_path: Path, port: int) -> None:
    told, codes = outcome(tmp_path, port, 3, {0: read_from_nowhere, 2: read_from_nowhere})
    assert re.match(rf"{HEAD}rank 0 {PLACE} hangs in .*; rank 2 {PLACE} hangs in read_from_nowhere", told), told
    assert told.count("error: ") == 1
    assert codes == [1, 1, 1]


def test_thread_that_the_loop_waits_for_is_shown(tmp_path: Path, port: int) -> None:
    told, _ = outcome(tmp_path, port, 2, {1: wait_for_data}, meet_in_own_group)
    where = r"hangs in \w+ \(threading\.py:\d+\), called from next_batch \(data/prefetch\.py:2\)"
    assert re.match(rf"{HEAD}rank 1 {PLACE} {where}\n", told), told
    stack = rf"    read_from_nowhere {CUT}\n    decode \(data/columns/decode\.py:2\)\n"
    assert re.search(rf"\n  rank 1, prefetch, innermost first:\n{stack}", told), told


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (stop, "it is stopped, by a signal"),
        (hold_the_interpreter, "it is stuck in native code that holds the interpreter"),
    ],
)
def test_rank_that_does_not_answer_is_named_with_the_reason(
    tmp_path: Path, port: int, action: Callable[[], None], reason: str
) -> None:
    told, codes = outcome(tmp_path, port, 2, {1: action})
    assert re.match(rf"{HEAD}rank 1 {PLACE} does not answer: {reason}\n", told), told
    assert told.count("error: ") == 1
    assert codes == [1, None]


def loop_with_store_on_first(world: World, errors: str) -> None:
    """Rank 0 hosts the store, as without torchrun, and is stopped."""
    send_errors_to(errors)
    host = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False) if world.is_rank_zero else None
    port = world.gather(host.port if host else 0)[0]
    with HangWatchdog(world, dist.TCPStore("localhost", port, wait_for_workers=False), TIMEOUT) as watch:
        watch.beat("step at 3 samples")
        dist.all_reduce(torch.zeros(1))
        if world.is_rank_zero:
            stop()
        dist.all_reduce(torch.zeros(1))


def test_store_that_does_not_answer_is_told(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with started_ranks(2, loop_with_store_on_first, str(errors)) as (processes, _):
        processes[1].join(20)
        assert processes[1].exitcode == 1
    assert re.match(
        rf"{HEAD}the store that joins the ranks does not answer.*; rank 1 {PLACE} is in ", errors.read_text()
    )


def leave_early(world: World, port: int, errors: str) -> None:
    send_errors_to(errors)
    with HangWatchdog(world, dist.TCPStore("localhost", port, wait_for_workers=False), TIMEOUT) as watch:
        watch.beat("step at 3 samples")
        if world.is_rank_zero:
            dist.all_reduce(torch.zeros(1))
    read_from_nowhere()


def test_rank_that_has_left_the_loop_is_named(tmp_path: Path, port: int) -> None:
    errors = tmp_path / "errors"
    with started_ranks(2, leave_early, port, str(errors)) as (processes, _):
        processes[0].join(20)
        assert processes[0].exitcode == 1
    assert re.match(rf"{HEAD}rank 1 {PLACE} has left the training loop\n", errors.read_text())


def hang_alone(world: World, errors: str) -> None:
    send_errors_to(errors)
    with HangWatchdog(world, None, TIMEOUT) as watch:
        watch.beat("step at 3 samples")
        read_from_nowhere()


def test_single_rank_that_hangs_is_told(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with started_ranks(1, hang_alone, str(errors)) as (processes, _):
        processes[0].join(20)
        assert processes[0].exitcode == 1
    assert re.match(rf"{HEAD}rank 0 {PLACE} hangs in read_from_nowhere {CUT}\n", errors.read_text())


def go_on_slowly(world: World, errors: str) -> float:
    """Whatever is allowed to take its time; the seconds that leaving takes."""
    send_errors_to(errors)
    group, store = dist.new_group(backend="gloo"), dist.distributed_c10d._get_default_store()
    with HangWatchdog(world, store, TIMEOUT) as watch:
        time.sleep(1.3 * TIMEOUT)  # before the first beat
        for step in range(3):
            watch.beat(f"step at {step} samples")
            time.sleep(0.6 * TIMEOUT * (1 + world.rank * step % 2) / 2)
            meet_marked(group, watch)
        begin = time.monotonic()
    left = time.monotonic() - begin
    dist.all_reduce(torch.zeros(1))
    with HangWatchdog(world, store, TIMEOUT) as watch:  # again in the same store
        watch.beat("step at 0 samples")
        time.sleep(0.3 * TIMEOUT)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("watch")]
    return left


def test_slow_progress_is_no_hang(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    assert max(run_on_ranks(2, go_on_slowly, str(errors), timeout_s=30)) < TIMEOUT
    assert errors.read_text() == ""


# Who is guilty, and how it is said.


def report(progress: list[int], *, left: bool = False) -> Report:
    return Report("step at 3 samples", progress, {"main thread": ["read (data/stream.py:7)"]}, "read (…)", left)


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_guilty_have_come_least_far_in_the_program(counted: list[int], stopped_at: list[int]) -> None:
    """Every rank runs the same program, each of whose steps counts in one of the four counters."""
    positions = [min(position, len(counted)) for position in stopped_at]
    progress = [[counted[:position].count(counter) for counter in range(4)] for position in positions]
    expected = [rank for rank, position in enumerate(positions) if position == min(positions)]
    assert find_guilty(len(positions), {rank: report(each) for rank, each in enumerate(progress)}) == expected


def test_silent_rank_is_guilty_whatever_the_others_say() -> None:
    assert find_guilty(3, {0: report([1, 0, 0, 0]), 2: report([2, 0, 0, 0])}) == [1]


def test_rank_that_has_left_after_all_its_work_is_not_guilty() -> None:
    assert find_guilty(2, {0: report([4, 2, 2, 0], left=True), 1: report([4, 2, 2, 0])}) == [1]


def test_silence_is_explained_as_far_as_can_be_seen() -> None:
    ended = multiprocessing.get_context("forkserver").Process()
    ended.start()
    ended.join()
    places = {0: Place("here", 1), 1: Place("elsewhere", 123), 2: Place(socket.gethostname(), ended.pid or 0)}
    told = describe_hang(60, 4, {0: report([1, 0, 0, 0])}, places).splitlines()[0]
    assert told == (
        "error: no progress for 60 s in the step at 3 samples: "
        "rank 1 (host elsewhere, pid 123) does not answer: stopped, cut off, or stuck in native code that holds the "
        f"interpreter; rank 2 (host {socket.gethostname()}, pid {ended.pid}) does not answer: its process has ended; "
        "rank 3 does not answer: it has not begun to train"
    )


def test_message_about_many_ranks_stays_short() -> None:
    reports = {rank: report([1 + (rank >= 100), 0, 0, 0]) for rank in range(200)}
    told = describe_hang(60, 200, reports, {}).splitlines()
    assert told[0].count("hangs in") == NAMED_RANKS
    assert told[0].endswith("; and 92 more ranks")
    assert told[-2].endswith("; and 92 more ranks")
    assert len(told) == 1 + 2 * NAMED_RANKS + 2
