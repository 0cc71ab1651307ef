"""The agent with real launchers, ranks and signals: what reaches the ranks, who starts again, which code comes out."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from launch import agent
from launch.entrypoint import launch
from trainer.process.ending import leave
agent.SETTLE_SECONDS = float(os.environ.get("SETTLE", agent.SETTLE_SECONDS))
leave(launch(os.environ, sys.argv[1:], {!r}))
"""
TIME_LIMIT_SECONDS = 60


class Launcher:
    """A launcher with two stand-ins for ranks."""

    def __init__(self, folder: Path, behaviour: str, **environment: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._errors = folder, folder / f"errors-{len(list(folder.iterdir()))}"
        command = [sys.executable, "-c", PROGRAM.format("tests.launch.stand_in"), str(folder), behaviour]
        variables = {"PROCESSES": "2", "OMP_NUM_THREADS": "1"} | environment
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(command, cwd=HOME, env=variables, stderr=errors)

    def lines(self, file: str, number: int) -> list[list[str]]:
        """The first lines that the ranks have left, once there are that many."""
        end = time.monotonic() + TIME_LIMIT_SECONDS
        while True:
            path = self._folder / file
            found = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
            if len(found) >= number:
                return found
            assert time.monotonic() < end, f"{len(found)} of {number} lines in {file}"
            time.sleep(0.02)

    def starts(self) -> int:
        return len(self.lines("starts", 0))

    def end(self) -> tuple[int, str]:
        """Exit code and standard error; no rank is left behind."""
        code = self.process.wait(TIME_LIMIT_SECONDS)
        for pid in self.pids():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        return code, self._errors.read_text()

    def pids(self) -> list[int]:
        return [int(line[3]) for line in self.lines("starts", 0) if int(line[4]) == self.process.pid]


Start = Callable[..., Launcher]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts launchers: `start(behaviour, **environment)`, each with a folder of its own unless `folder` names one."""
    launchers: list[Launcher] = []

    def start_launcher(behaviour: str, folder: str = "", **environment: str) -> Launcher:
        launchers.append(Launcher(tmp_path / (folder or str(len(launchers))), behaviour, **environment))
        return launchers[-1]

    yield start_launcher
    for launcher in launchers:
        if launcher.process.poll() is None:
            launcher.process.kill()
            launcher.process.wait()
        for pid in launcher.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def test_a_signal_reaches_all_ranks_and_their_code_comes_out(start: Start) -> None:
    signals = (signal.SIGTERM, signal.SIGUSR1)
    launchers = [start("stop", MAX_RESTARTS="3") for _ in signals]
    for launcher, number in zip(launchers, signals, strict=True):
        launcher.lines("starts", 2)
        launcher.process.send_signal(number)
    for launcher in launchers:
        assert launcher.end() == (75, "")
        assert launcher.starts() == 2
        assert sorted(launcher.lines("signals", 2)) == [["0"], ["1"]]  # none was told a second time


def test_every_signal_is_passed_on(start: Start) -> None:
    launcher = start("stop at once when told again")
    launcher.lines("starts", 2)
    launcher.process.send_signal(signal.SIGINT)
    launcher.lines("signals", 2)
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.end() == (143, "")  # as asked: there is no failure to describe


def test_ranks_that_exceed_the_grace_are_killed(start: Start) -> None:
    launcher = start("ignore", GRACE_SECONDS="1", MAX_RESTARTS="3")
    launcher.lines("starts", 2)
    launcher.process.send_signal(signal.SIGHUP)
    code, errors = launcher.end()
    assert code == 137
    assert errors.startswith("error: ranks that have not ended GRACE_SECONDS=1 after the signal: killed\n")
    assert launcher.starts() == 2


def test_no_rank_starts_again_after_a_told_end(start: Start) -> None:
    wrong, stopped = start("end 2", MAX_RESTARTS="3"), start("end 75", MAX_RESTARTS="3")
    for launcher, code in ((wrong, 2), (stopped, 75)):
        assert launcher.end() == (code, "")
        assert launcher.starts() == 2
    assert wrong.lines("signals", 0) == [["0"]]  # it would say the same as the other
    assert stopped.lines("signals", 0) == []


def test_another_code_for_a_stop(start: Start) -> None:
    stopped, wrong = (start(behaviour, STOPPED_CODE="138") for behaviour in ("end 75", "end 2"))
    assert stopped.end() == (138, "")
    assert wrong.end() == (2, "")


def test_a_lost_rank_starts_all_again_with_a_store_of_their_own(start: Start) -> None:
    launcher, unable = start("lose one", MAX_RESTARTS="1"), start("lose one")
    assert launcher.end() == (0, "a rank failed or was lost (-9): all start again, 1 of 1\n")
    first, second = launcher.lines("starts", 4)[:2], launcher.lines("starts", 4)[2:]
    assert sorted(line[:3] for line in first) == [["0", "2", "0"], ["1", "2", "0"]]
    assert sorted(line[:3] for line in second) == [["0", "2", "1"], ["1", "2", "1"]]
    assert not {line[5] for line in first} & {line[5] for line in second}

    code, errors = unable.end()
    assert code == 137
    assert "Signal 9 (SIGKILL)" in errors
    assert unable.starts() == 2


def test_nodes_are_stopped_together(start: Start) -> None:
    endpoint = {"NNODES": "2", "RDZV_ENDPOINT": f"localhost:{free_port()}"}
    nodes = [start("stop", **endpoint, RDZV_CONF=f"is_host={number}") for number in (1, 0)]
    for node in nodes:
        node.lines("starts", 2)
    nodes[0].process.send_signal(signal.SIGTERM)
    nodes[0].lines("signals", 2)
    nodes[1].process.send_signal(signal.SIGTERM)
    assert [node.end() for node in nodes] == [(75, ""), (75, "")]


def test_a_node_comes_and_is_lost(start: Start) -> None:
    settings = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3,is_host="
    environment = {"NNODES": "1:2", "RDZV_ENDPOINT": f"localhost:{free_port()}", "PROCESSES": "1"}
    staying = start("elastic", "job", **environment, RDZV_CONF=f"{settings}1")
    staying.lines("starts", 1)
    going = start("elastic", "job", **environment, RDZV_CONF=f"{settings}0")
    staying.lines("together", 2)
    for pid in (going.process.pid, *going.pids()):
        os.kill(pid, signal.SIGKILL)
    code, errors = staying.end()
    assert code == 0
    assert errors.endswith("all start again, 1 of 3\n")
    sizes = [line[1:3] for line in staying.lines("starts", 4)]
    assert sizes == [["1", "0"], ["2", "0"], ["2", "0"], ["1", "1"]]


def started_nodes(start: Start, behaviour: str, **variables: str) -> list[Launcher]:
    """Two nodes of a rank each, which have met at MASTER_ADDR."""
    where = {"NNODES": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "SETTLE": "1"}
    environment = {**where, "PROCESSES": "1", **variables}
    nodes = [start(behaviour, f"job-{behaviour}", **environment, NODE_RANK=str(rank)) for rank in range(2)]
    for node in nodes:
        node.lines("starts", 2)
    return nodes


@pytest.mark.parametrize("frozen", [False, True])
def test_a_lost_rank_ends_the_other_node_whose_rank_does_not_end(start: Start, *, frozen: bool) -> None:
    nodes = started_nodes(start, "ignore")
    (lost,), (other,) = (node.pids() for node in nodes[::-1])
    if frozen:
        os.kill(other, signal.SIGSTOP)
    os.kill(lost, signal.SIGKILL)
    assert nodes[1].end()[0] == 137
    code, errors = nodes[0].end()
    assert code == 1
    assert re.fullmatch(r"error: node \S+: a rank has failed or was lost \(-9\).*killed\n", errors)


def test_a_launcher_without_the_others_store_ends_in_time_and_hears_signals(start: Start) -> None:
    jobs = [started_nodes(start, "ignore", COLLECTIVE_SECONDS="2"), started_nodes(start, "stop")]
    for nodes in jobs:
        nodes[0].process.send_signal(signal.SIGSTOP)  # the store does not answer any more
    cut_off, asked = (nodes[1] for nodes in jobs)
    asked.process.send_signal(signal.SIGTERM)
    assert asked.end()[0] == 75
    code, errors = cut_off.end()
    assert code == 1
    assert "has not reached the store where the nodes meet for 2 s" in errors
    assert errors.count("error: ") == 1
