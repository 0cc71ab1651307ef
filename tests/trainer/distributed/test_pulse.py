"""A rank that is not heard from is given up by all others; one that works for long, or leaves, is not."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_on_ranks, started_ranks
from trainer.distributed.pulse import Pulse
from trainer.distributed.world import World

SECONDS = 1.0
STORE = """
import sys, time
from torch.distributed import TCPStore
store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(600)
"""


@contextmanager
def pulse(world: World, port: int, errors: str) -> Iterator[Pulse]:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    with Pulse(world, dist.TCPStore("localhost", port, wait_for_workers=False), SECONDS) as watch:
        dist.all_reduce(torch.zeros(1))  # all are there
        yield watch


@pytest.fixture
def store() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A store in a process of its own, and its port."""
    with subprocess.Popen([sys.executable, "-c", STORE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def wait_in_collective() -> None:
    """Until the pulse ends this rank: that another one has ended already may break the collective before."""
    with suppress(RuntimeError):
        dist.all_reduce(torch.zeros(1))
    time.sleep(600)


def stop_or_wait(world: World, port: int, errors: str) -> None:
    with pulse(world, port, errors):
        if world.rank == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        wait_in_collective()


def test_a_stopped_rank_is_given_up_by_all_others(store: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with started_ranks(3, stop_or_wait, store[1], str(errors)) as (processes, _):
        for process in processes[:2]:
            process.join(20)
        assert [process.exitcode for process in processes] == [1, 1, None]
    expected = r"error: rank 2 \(host \S+\) has not been heard from for 1 s \(run\.collective_seconds\): it is stopped"
    assert re.match(expected, errors.read_text())
    assert errors.read_text().count("\n") == 1  # once a host


def wait_for_ever(world: World, port: int, errors: str) -> None:
    with pulse(world, port, errors):
        Path(f"{errors}-{world.rank}").touch()
        time.sleep(600)


def test_ranks_end_where_their_store_does_not_answer(store: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with started_ranks(2, wait_for_ever, store[1], str(errors)) as (processes, _):
        while not all((tmp_path / f"errors-{rank}").exists() for rank in range(2)):
            time.sleep(0.02)
        store[0].send_signal(signal.SIGSTOP)
        for process in processes:
            process.join(20)
        assert [process.exitcode for process in processes] == [1, 1]
    assert "rank 0 (host" in errors.read_text()
    assert "has not reached the store of the ranks for 1 s" in errors.read_text()


def give_up(world: World, port: int, errors: str) -> None:
    with pulse(world, port, errors) as watch:
        if world.rank == 1:
            watch.give_up("rank 1 has no network")
        wait_in_collective()


def test_a_rank_that_gives_up_ends_the_others_with_its_words(
    store: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    errors = tmp_path / "errors"
    with started_ranks(2, give_up, store[1], str(errors)) as (processes, _):
        for process in processes:
            process.join(20)
        assert [process.exitcode for process in processes] == [1, 1]
    assert errors.read_text().startswith("error: rank 1 has no network; all ranks end")


def work_and_leave(world: World, port: int, errors: str) -> str:
    """Rank 0 works alone, for longer than a rank may be silent, while the other waits; then rank 1 leaves first."""
    hosts = replace(world, local_size=1)  # as if each were on a host of its own
    with pulse(hosts, port, errors):
        if world.is_rank_zero:
            time.sleep(2 * SECONDS)
        dist.all_reduce(torch.zeros(1))
        if world.is_rank_zero:
            time.sleep(2 * SECONDS)
    dist.all_reduce(torch.zeros(1))
    return Path(errors).read_text()


def test_long_work_and_leaving_are_no_silence(store: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    assert run_on_ranks(2, work_and_leave, store[1], str(tmp_path / "errors"), timeout_s=30) == ["", ""]
