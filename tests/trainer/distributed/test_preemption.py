"""A request to stop on any rank saves the run and ends it with 75; the next start goes on as if nothing had been."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import torch.distributed as dist

from tests.ranks import collect, run_on_ranks, started_ranks
from tests.trainer.datasets import config_values, make_config
from trainer.cli.app import run
from trainer.config.load import load_config
from trainer.config.run_config import Config
from trainer.distributed.preemption import STOPPED, Stopped, StopRequest
from trainer.distributed.torchrun_env import announced_ranks
from trainer.distributed.world import World
from trainer.process import signals
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.run.starts import read_starts
from trainer.train import train


def _train(world: World, config: Config) -> str:
    try:
        train(config, world)
    except Stopped:
        return "stopped"
    return "finished"


def _wait_until_it_trains(config: Config) -> None:
    deadline = time.monotonic() + 60
    while len(read_records(RunDirectory(config.run.dir).train_log)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)


def _losses(config: Config) -> torch.Tensor:
    return torch.tensor([record["loss"] for record in read_records(RunDirectory(config.run.dir).train_log)])


LONG: dict[str, Any] = {"train": {"samples": 6400}, "evaluate": {"at_samples": [3200]}}


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The losses of a run that nobody stops."""
    config = make_config(dataset, run={"dir": str(tmp_path_factory.mktemp("whole") / "run")}, **LONG)
    run_on_ranks(2, _train, config)
    return _losses(config)


@pytest.mark.parametrize(
    ("rank", "number"), [(0, signal.SIGTERM), (1, signal.SIGUSR1), (0, signal.SIGINT), (1, signal.SIGHUP)]
)
def test_a_signal_to_any_rank_saves_and_ends_all(
    dataset: Path, tmp_path: Path, undisturbed: torch.Tensor, rank: int, number: int
) -> None:
    config = make_config(dataset, run={"dir": str(tmp_path / "stopped")}, **LONG)
    with started_ranks(2, _train, config) as (processes, receivers):
        _wait_until_it_trains(config)
        os.kill(int(processes[rank].pid or 0), number)
        assert collect(receivers) == ["stopped", "stopped"]
    segments = read_starts(RunDirectory(config.run.dir).segments)
    assert segments[0].end == "stopped"
    assert 0 < segments[0].reached < 6400
    assert run_on_ranks(2, _train, config) == ["finished", "finished"]
    assert torch.equal(_losses(config)[-10:], undisturbed[-10:])


def test_a_signal_during_an_evaluation_is_not_kept_waiting(dataset: Path, tmp_path: Path) -> None:
    config = make_config(
        dataset,
        run={"dir": str(tmp_path / "run")},
        data={"evaluation_batch_size": 4, "test": str(dataset / "train")},  # 2,000 batches
        evaluate={"at_samples": [128]},
        train={"samples": 256},
    )
    run_folder = RunDirectory(config.run.dir)
    with started_ranks(2, _train, config) as (processes, receivers):
        deadline = time.monotonic() + 60
        while not (run_folder.checkpoints / "128").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(int(processes[1].pid or 0), signal.SIGTERM)
        assert collect(receivers) == ["stopped", "stopped"]
    assert read_records(run_folder.evaluations) == []
    assert read_starts(run_folder.segments)[0].reached == 128


def test_the_command_ends_with_75(dataset: Path, tmp_path: Path) -> None:
    values = config_values(dataset, run={"dir": str(tmp_path / "run")}, train={"samples": 6400})
    (tmp_path / "config.toml").write_text(tomli_w.dumps(values))
    assert run_on_ranks(1, _stop_the_command, str(tmp_path))[0] == STOPPED


def _stop_the_command(_: World, folder: str) -> int:
    dist.destroy_process_group()  # the command starts its own
    config = load_config(f"{folder}/config.toml")

    def stop_it() -> None:
        _wait_until_it_trains(config)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_it).start()
    return run(["train", f"{folder}/config.toml"])


def _ignore_requests(_: World, ready: Path, grace_seconds: float, same_request_seconds: float) -> None:
    signals.SAME_REQUEST_SECONDS = same_request_seconds
    with StopRequest(grace_seconds).listening() as request:
        ready.touch()
        while not request.requested:
            time.sleep(0.01)
        time.sleep(60)


@pytest.mark.parametrize(
    ("grace", "same", "signals", "expected"),
    [
        (60, 0.1, 2, 128 + signal.SIGTERM),  # the second signal ends it at once
        (0.5, 60, 2, 1),  # the same signal delivered twice does not; the end of grace does
    ],
)
def test_a_second_signal_and_the_end_of_grace(
    tmp_path: Path, grace: float, same: float, signals: int, expected: int
) -> None:
    ready = tmp_path / "ready"
    with started_ranks(1, _ignore_requests, ready, grace, same) as (processes, _):
        _wait_for(ready)
        for _ in range(signals):
            os.kill(int(processes[0].pid or 0), signal.SIGTERM)
            time.sleep(0.2)
        processes[0].join(30)
        assert processes[0].exitcode == expected


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def _wait_in_a_collective(world: World, ready: Path) -> None:
    with StopRequest(1.0).listening():
        if world.is_rank_zero:
            ready.touch()
            dist.all_reduce(torch.zeros(1))  # the other rank never comes
        time.sleep(60)


def test_the_end_of_grace_comes_inside_a_collective_too(tmp_path: Path) -> None:
    with started_ranks(2, _wait_in_a_collective, tmp_path / "ready") as (processes, _):
        _wait_for(tmp_path / "ready")
        time.sleep(1.0)  # until it has entered the collective
        os.kill(int(processes[0].pid or 0), signal.SIGTERM)
        processes[0].join(30)
        assert processes[0].exitcode == 1


_RANK = """
import os, signal, sys, time
from trainer.process.host import end_without_launcher

def tell(number, _):
    open(sys.argv[2], "w").write("asked")
    os._exit(0)

signal.signal(signal.SIGTERM, tell)
end_without_launcher(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(60)
"""
_LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
@pytest.mark.parametrize(("number", "asked"), [(signal.SIGTERM, True), (signal.SIGKILL, False)])
def test_a_rank_does_not_outlive_its_launcher(tmp_path: Path, number: int, asked: bool) -> None:
    told = tmp_path / "told"
    call = [sys.executable, "-c", _LAUNCHER, _RANK, str(int(number)), str(told)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        rank = int(launcher.stdout.readline())
        launcher.kill()
        deadline = time.monotonic() + 30
        while _is_alive(rank) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not _is_alive(rank)
    assert told.exists() == asked


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(("restarts", "replaceable"), [(None, False), ("0", False), ("3", True)])
def test_ranks_that_are_started_again_are_replaceable(
    monkeypatch: pytest.MonkeyPatch, restarts: str | None, replaceable: bool
) -> None:
    monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS", raising=False)
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    assert announced_ranks().replaceable == replaceable
