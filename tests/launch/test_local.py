"""Starting ranks on this machine: the command line of torchrun, the share of cores, and wrong usage."""

import os
import sys

import pytest

from launch import local


class ReplacedError(Exception):
    """What takes the place of this process, in the tests."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        super().__init__(command)
        self.command = command
        self.environment = environment


@pytest.fixture(autouse=True)
def never_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns the replacement of this process into an exception."""

    def replace(file: str, command: list[str], environment: dict[str, str]) -> None:
        assert file == command[0]
        raise ReplacedError(command, environment)

    monkeypatch.setattr(os, "execvpe", replace)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> ReplacedError:
    """What `python -m launch.local ARGUMENTS` becomes."""
    monkeypatch.setattr(sys, "argv", ["launch.local", *arguments])
    with pytest.raises(ReplacedError) as raised:
        local.main()
    return raised.value


def test_torchrun_command_starts_this_installation() -> None:
    command = local.torchrun_command(2, ["train", "run.toml"])
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert command[3:] == ["--standalone", "--nproc-per-node", "2", "-m", "trainer", "train", "run.toml"]


@pytest.mark.parametrize(("cores", "processes", "threads"), [(8, 2, 4), (8, 3, 2), (2, 2, 1), (1, 4, 1)])
def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert local.threads_per_process(processes) == threads


def test_arguments_after_the_command_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = started(monkeypatch, "--processes", "2", "train", "run.toml", "--set", "run.seed=1", "--processes", "3")
    assert replaced.command == local.torchrun_command(
        2, ["train", "run.toml", "--set", "run.seed=1", "--processes", "3"]
    )


def test_one_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(monkeypatch, "train", "run.toml").command == local.torchrun_command(1, ["train", "run.toml"])


def test_threads_are_set_unless_the_user_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    arguments = ("--processes", "2", "train", "run.toml")
    assert started(monkeypatch, *arguments).environment["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert started(monkeypatch, *arguments).environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("arguments", [[], ["--processes", "0", "train"], ["--processes", "2"], ["--processes", "x"]])
def test_wrong_usage_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["launch.local", *arguments])
    with pytest.raises(SystemExit) as ended:
        local.main()
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
