"""How the program ends: by signals, without readers, after wrong input; real processes, as a shell sees them."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.commands import Command, run_command, started_command
from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values, make_config
from trainer.checkpoint.storage import list_folders
from trainer.config.run_config import Config
from trainer.distributed.preemption import STOPPED
from trainer.distributed.world import World
from trainer.process.signals import END_SIGNALS, Interrupted, Interruption
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train

LONG: dict[str, Any] = {"train": {"samples": "200k"}, "checkpoint": {"every_minutes": 0}}


def write_config(dataset: Path, folder: Path, **sections: Any) -> str:
    """A config whose run is `folder`/run; far longer than a test unless `train` says otherwise."""
    values = config_values(dataset, run={"dir": str(folder / "run")}, **(LONG | sections))
    values["data"]["repeat"] = True
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return str(path)


def records(folder: Path) -> list[dict[str, Any]]:
    return read_records(folder / "run" / "train.jsonl")


def wait_for_steps(command: Command, folder: Path, number: int = 2) -> None:
    command.wait_until(lambda: len(records(folder)) >= number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1])
def test_a_request_saves_the_run_and_says_so(dataset: Path, tmp_path: Path, number: signal.Signals) -> None:
    with started_command(tmp_path, "train", write_config(dataset, tmp_path)) as command:
        wait_for_steps(command, tmp_path)
        command.signal(number)
        assert command.end() == STOPPED
    (newest,) = list_folders(tmp_path / "run" / "checkpoints")
    assert f"stopped on request at {int(newest):,} samples; start again to go on" in command.out
    (line,) = command.errors.splitlines()
    assert line.startswith(f"asked to stop ({number.name}): the run is saved first; asked again after 5 s")


def ignore_closed_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_signal_that_is_ignored_stays_ignored(dataset: Path, tmp_path: Path) -> None:
    """As under nohup."""
    config = write_config(dataset, tmp_path)
    with started_command(tmp_path, "train", config, prepare=ignore_closed_terminal) as command:
        wait_for_steps(command, tmp_path)
        command.signal(signal.SIGHUP)
        wait_for_steps(command, tmp_path, len(records(tmp_path)) + 5)
        command.signal(signal.SIGINT)
        assert command.end() == STOPPED
    assert "SIGHUP" not in command.errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ranks_join_ends_the_command(dataset: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The other rank never comes: the main thread waits in native code, where no Python handler runs."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    config = write_config(dataset, tmp_path)
    with started_command(tmp_path, "train", config, environment=ranks | place) as command:
        command.wait_until(lambda: _listens(port))
        command.signal(number)
        assert command.end() == 128 + number
    assert command.errors == f"ended by {number.name}\n"
    assert not (tmp_path / "run").exists()


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("localhost", port)) == 0


def test_a_lost_rank_is_told_in_a_line(dataset: Path, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(listener.getsockname()[1])}
    ranks = [place | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)} for rank in range(2)]
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    config = write_config(dataset, tmp_path)
    with (
        started_command(tmp_path / "0", "train", config, environment=ranks[0]) as first,
        started_command(tmp_path / "1", "train", config, environment=ranks[1]) as second,
    ):
        wait_for_steps(first, tmp_path)
        second.signal(signal.SIGKILL)
        assert first.end() == 1
    assert re.fullmatch(r"error: rank 0 \(host .*\) has lost another rank, .* newest checkpoint\)\n", first.errors)


def test_a_second_signal_interrupts_no_cleaning_up(tmp_path: Path) -> None:
    with started_command(tmp_path, "synth", str(tmp_path / "out"), "--samples", "20M") as command:
        command.wait_until(lambda: bool(list(tmp_path.glob("out.partial-*/train/*"))))
        command.signal(signal.SIGTERM)
        command.signal(signal.SIGINT)
        assert command.end() in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert command.errors.startswith("ended by SIG")
    assert command.errors.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished run."""
    run = {"dir": str(tmp_path_factory.mktemp("trained") / "run")}
    small = {"evaluation_batch_size": 4}  # 2,000 batches to score
    config = make_config(dataset, run=run, train={"samples": 512}, data=small)
    run_on_ranks(1, _train, config)
    return config


def _train(world: World, config: Config) -> None:
    train(config, world)


def take_a_signal() -> None:
    """In this thread, where the system may deliver it."""
    time.sleep(0.2)  # the main thread waits by then
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)


@pytest.fixture
def handlers() -> Iterator[None]:
    """This process's own ones, again afterwards."""
    before = {number: signal.getsignal(number) for number in END_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_another_thread_takes_wakes_the_main_thread() -> None:
    with Interruption(speaks=False).listening() as interruption:
        threading.Thread(target=take_a_signal).start()
        with pytest.raises(Interrupted):
            threading.Event().wait()  # else this process is ended after NATIVE_SECONDS
    assert interruption.first_signal == signal.SIGTERM


def test_an_interrupted_predict_leaves_nothing(dataset: Path, tmp_path: Path, trained: Config) -> None:
    out = tmp_path / "scored"
    arguments = ["predict", trained.run.dir, "--data", str(dataset / "train"), "--out", str(out)]
    with started_command(tmp_path, *arguments) as command:
        command.wait_until(out.exists)
        command.signal(signal.SIGINT)
        assert command.end() == 128 + signal.SIGINT
    assert command.errors == "ended by SIGINT\n"
    assert not out.exists()


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    receiver, sender = os.pipe()
    os.close(receiver)
    return sender


def test_training_goes_on_when_nobody_reads(dataset: Path, tmp_path: Path) -> None:
    config = write_config(dataset, tmp_path, train={"samples": 512})
    with started_command(tmp_path, "train", config, stdout=closed_pipe()) as command:
        assert (command.end(), command.errors) == (0, "")
    assert records(tmp_path)[-1]["samples"] == 512


def test_training_goes_on_when_its_output_is_not_taken(dataset: Path, tmp_path: Path) -> None:
    """A pager that is not scrolled, a terminal on hold."""
    _, sender = os.pipe()
    fcntl.fcntl(sender, fcntl.F_SETPIPE_SZ, 4096)
    os.write(sender, b"." * 4000)
    config = write_config(dataset, tmp_path, train={"samples": 512})
    with started_command(tmp_path, "train", config, stdout=sender) as command:
        assert (command.end(), command.errors) == (0, "")
    assert records(tmp_path)[-1]["samples"] == 512


def close_output() -> None:
    os.close(1)
    os.close(2)
    sys.stdout = sys.stderr = None  # type: ignore[assignment]  # as Python itself does


def test_training_goes_on_without_output(dataset: Path, tmp_path: Path) -> None:
    config = write_config(dataset, tmp_path, train={"samples": 512})
    with started_command(tmp_path, "train", config, prepare=close_output) as command:
        assert (command.end(), command.errors) == (0, "")
    assert records(tmp_path)[-1]["samples"] == 512
    RunDirectory(tmp_path / "run").read_config()  # no output has got into a file of the run


SHOW_INHERITED = """
import os
from trainer.process.output import open_output
open_output()
raise SystemExit(100 + sum(os.get_inheritable(descriptor) for descriptor in range(3)))
"""


def test_closed_output_is_filled_for_processes_of_this_one_too() -> None:
    call = f'exec "{sys.executable}" -c "$0" <&- >&- 2>&-'
    found = subprocess.run(["sh", "-c", call, SHOW_INHERITED], cwd=Path(__file__).parents[3], check=False, timeout=240)
    assert found.returncode == 103


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_short_command_ends_when_nobody_reads(tmp_path: Path, trained: Config, options: list[str]) -> None:
    with started_command(tmp_path, "audit", trained.run.dir, *options, stdout=closed_pipe()) as command:
        assert (command.end(), command.errors) == (128 + signal.SIGPIPE, "")


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_output_in_ascii(dataset: Path, tmp_path: Path) -> None:
    """Names of files stay what they are; what the terminal does not know becomes '?'."""
    run = tmp_path / "größe"
    values = config_values(dataset, run={"dir": str(run)}, train={"samples": 128})
    path = tmp_path / "größe.toml"
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    code, out, errors = run_in_ascii("train", str(path))
    assert (code, errors) == (0, "")
    assert "128 of 128 samples ? " in out
    assert read_records(RunDirectory(run).train_log)[-1]["samples"] == 128


def run_in_ascii(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command under an ASCII locale, from the interpreter's start on."""
    call = [sys.executable, "-m", "trainer", *arguments]
    home = str(Path(__file__).parents[3])
    found = subprocess.run(call, cwd=home, env={**os.environ, **ASCII}, capture_output=True, check=False, timeout=240)
    return found.returncode, found.stdout.decode("ascii"), found.stderr.decode("ascii")


def test_every_error_ends_with_its_code(dataset: Path, tmp_path: Path) -> None:
    """With 2, and not with 134 now and then; the long form: `make faults`."""
    config = write_config(dataset, tmp_path, data={"train": "nowhere", "test": "nowhere"})
    code, _, errors = run_command(tmp_path, "train", config)
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
