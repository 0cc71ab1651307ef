"""`adatt train --follow`: windows are trained as they come, in one process, until a signal ends the wait."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch.distributed as dist
from torch.distributed.distributed_c10d import _world

from tests.ranks import collect, run_on_ranks, started_ranks
from tests.trainer.days import DAYS, add, config_of
from trainer.analysis.audit.audit import audit_run
from trainer.checkpoint.storage import list_folders
from trainer.cli.app import run as run_command
from trainer.config.compatibility import plain
from trainer.config.run_config import Config
from trainer.distributed.preemption import STOPPED, Stopped, StopRequest
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.growth import follow as follow_module
from trainer.run.directory import RunDirectory
from trainer.run.starts import read_starts

HOME = Path(__file__).parents[3]
EVERY_MINUTES = 0.01


def trained(days: int) -> int:
    """Samples at the end of so many days."""
    return sum(list(DAYS.values())[:days]) // 64 * 64


def check_whole(run: RunDirectory, days: int) -> None:
    audit = audit_run(run.path)
    assert audit.promises_broken == ()
    (account,) = audit.epochs
    assert (account.trained_once, account.traced) == (trained(days), trained(days))


def come(days: Path, log: Path, day: int) -> None:
    """A day appears at once, as a whole."""
    add(days, log.parent / "coming", day)
    log.mkdir(exist_ok=True)
    name = f"dt=2022-04-{day}"
    (log.parent / "coming" / name).rename(log / name)


class Following:
    """The command in processes of its own, as the image starts it."""

    def __init__(self, config: Config, folder: Path, processes: int) -> None:
        (folder / "config.toml").write_text(tomli_w.dumps(plain(config)))
        self.log = folder / "log"
        self._output = folder / "output"
        module = "trainer" if processes == 1 else "launch.entrypoint"
        call = [sys.executable, "-m", module, "train", str(folder / "config.toml"), "--follow", f"{EVERY_MINUTES}"]
        environment = {**os.environ, "PROCESSES": f"{processes}", "OMP_NUM_THREADS": "1"}
        with self._output.open("w") as output:
            self.process = subprocess.Popen(call, cwd=HOME, env=environment, stdout=output, stderr=subprocess.STDOUT)

    @property
    def lines(self) -> list[str]:
        """What it has printed so far."""
        return self._output.read_text().splitlines()

    def wait_for(self, line: str, times: int = 1) -> None:
        """Until it has printed the line so often."""
        deadline = time.monotonic() + 120
        while self.lines.count(line) < times and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.02)
        assert self.lines.count(line) == times, "\n".join(self.lines)

    def wait_for_wait(self, times: int) -> None:
        self.wait_for(f"waiting for new windows in {self.log}, every {EVERY_MINUTES:g} minutes (Ctrl-C ends)", times)

    def end_by(self, number: int) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def following(config: Config, folder: Path, processes: int = 1) -> Iterator[Following]:
    command = Following(config, folder, processes)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.wait()


@pytest.mark.parametrize("processes", [1, 2])
def test_days_are_trained_as_they_come(days: Path, tmp_path: Path, processes: int) -> None:
    log, run = tmp_path / "log", RunDirectory(tmp_path / "run")
    come(days, log, 24)
    with following(config_of(days, log, run.path), tmp_path, processes) as command:
        command.wait_for_wait(1)
        assert int(list_folders(run.checkpoints)[-1]) == trained(1)
        come(days, log, 25)
        command.wait_for_wait(2)
        assert int(list_folders(run.checkpoints)[-1]) == trained(2)

        log.rename(tmp_path / "away")  # a store that cannot be reached for a while
        gone = f"dataset {log}: no such file or folder; looked at again in {EVERY_MINUTES:g} minutes"
        command.wait_for(f"warning: {gone}")
        (tmp_path / "away").rename(log)
        come(days, log, 26)
        command.wait_for_wait(3)
        assert command.end_by(signal.SIGTERM) == STOPPED
        command.wait_for("stopped on request; all that was there is trained and saved, start again to go on")

    assert [start.end for start in read_starts(run.segments)] == ["finished"] * 3
    check_whole(run, 3)


def test_a_change_that_may_not_be_ends_the_wait(days: Path, tmp_path: Path) -> None:
    log, run = tmp_path / "log", RunDirectory(tmp_path / "run")
    for day in (24, 25):
        come(days, log, day)
    with following(config_of(days, log, run.path), tmp_path) as command:
        command.wait_for_wait(1)
        (log / "dt=2022-04-25").rename(tmp_path / "gone")
        assert command.process.wait(60) == 2
    assert command.lines[-1] == (
        f"error: data.train = {str(log)!r} has changed since the run began: dt=2022-04-25/part-0.parquet is gone, but "
        "not all rows of its window have been trained; restore it"
    )


def _follow(world: World, config: Config, told: Path) -> tuple[str, int, int]:
    """How it ends, and the process groups and files that are open then."""
    follow_module._say = lambda line: told.open("a").write(f"{line}\n") and None
    try:
        follow_module.follow(config, world, EVERY_MINUTES)
    except Stopped:
        return "stopped", len(_world.pg_map), len(os.listdir("/proc/self/fd"))
    return "", 0, 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_any_rank_ends_the_wait_of_all(days: Path, tmp_path: Path, number: int) -> None:
    log, told = tmp_path / "log", tmp_path / "told"
    come(days, log, 24)
    with started_ranks(2, _follow, config_of(days, log, tmp_path / "run"), told) as (processes, receivers):
        wait_for(told, 1)
        os.kill(int(processes[1].pid or 0), number)
        assert [how for how, _, _ in collect(receivers)] == ["stopped", "stopped"]


def test_rounds_leave_nothing_open(days: Path, tmp_path: Path) -> None:
    open_at_end = []
    for rounds in (1, 3):
        folder = tmp_path / f"{rounds}"
        log, told = folder / "log", folder / "told"
        come(days, log, 24)
        with started_ranks(1, _follow, config_of(days, log, folder / "run"), told) as (processes, receivers):
            for day in range(1, rounds):
                wait_for(told, day)
                come(days, log, 24 + day)
            wait_for(told, rounds)
            os.kill(int(processes[0].pid or 0), signal.SIGTERM)
            open_at_end += collect(receivers)
    assert open_at_end[0] == open_at_end[1]


def wait_for(told: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while (not told.exists() or told.read_text().count("\n") < lines) and time.monotonic() < deadline:
        time.sleep(0.02)


def _follow_when_asked_late(world: World, config: Config) -> str:
    """The signal comes while the last checkpoint is being saved: no step is left that could hear of it."""

    def train(config: Config, world: World, *, profile: bool) -> None:  # noqa: ARG001
        with StopRequest(60).listening() as request:
            if world.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                while not request.requested:
                    time.sleep(0.01)

    follow_module.train = train
    try:
        follow_module.follow(config, world, EVERY_MINUTES)
    except Stopped:
        return "stopped"
    return ""


def test_a_signal_at_the_end_of_a_round_is_not_lost(days: Path, tmp_path: Path) -> None:
    config = config_of(days, days / "all", tmp_path / "run")
    assert run_on_ranks(2, _follow_when_asked_late, config) == ["stopped"] * 2


WRONG: list[tuple[float, dict[str, Any], str]] = [
    (0, {}, "--follow = 0 minutes; give a number above 0, as in --follow 5"),
    (-1, {}, "--follow = -1 minutes"),
    (float("nan"), {}, "--follow = nan minutes"),
    (float("inf"), {}, "--follow = inf minutes"),
    (5, {"data": {"order": "shuffled"}}, "new windows, which data.order = 'shuffled', data.repeat = false does not"),
    (5, {"data": {"repeat": True}}, "new windows, which data.order = 'chronological', data.repeat = true does not"),
    (5, {"train": {"samples": 64}}, "but train.samples = 64 ends before; set train.samples = 'all', or leave --follow"),
    (
        5,
        {"train": {"samples": "all", "patience": 2}, "evaluate": {"at_samples": [64]}},
        "train.patience = 2 ends the training; leave one out",
    ),
]


@pytest.mark.parametrize(("minutes", "sections", "message"), WRONG)
def test_what_cannot_be_followed_is_refused(
    tmp_path: Path, minutes: float, sections: dict[str, Any], message: str
) -> None:
    config = config_of(tmp_path, tmp_path / "log", tmp_path / "run", **sections)
    with pytest.raises(ConfigError) as error:
        follow_module.check_follow(config, minutes)
    assert message in str(error.value)


def test_the_command_refuses_it(days: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(tomli_w.dumps(plain(config_of(days, tmp_path / "log", tmp_path / "run"))))
    assert run_on_ranks(1, _command, ["train", str(tmp_path / "config.toml"), "--follow", "0"]) == [2]


def _command(_: World, arguments: list[str]) -> int:
    dist.destroy_process_group()  # the command starts its own
    return run_command(arguments)
