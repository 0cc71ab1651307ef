"""One start at a time writes into a run: whoever has taken the lock last."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from trainer.checkpoint.storage import list_folders
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError, RunError
from trainer.logging.train_log import TrainLog
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.run.lock import RunLock, TakenOverError
from trainer.run.starts import StartLog, read_starts
from trainer.train import train

HOLD = """
import sys, time
from pathlib import Path
from trainer.run.lock import RunLock
with RunLock(Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold_elsewhere(folder: Path, seconds: float) -> "subprocess.Popen[str]":
    call = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_patient_start_waits_for_the_one_before_it(tmp_path: Path) -> None:
    with hold_elsewhere(tmp_path, 1) as other:
        with pytest.raises(ConfigError, match=f"is being trained by process {other.pid} on [^,]+; wait"):
            RunLock(tmp_path).held(0.3).__enter__()
        with RunLock(tmp_path).held(30):
            assert other.wait(5) == 0


def test_whoever_loses_the_lock_writes_no_more(tmp_path: Path) -> None:
    """As when a file server gives it to another host; a lock of the system is not in the way of its own process."""
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    early = StartLog(tmp_path / "segments.jsonl", "run", first.check)
    late = StartLog(tmp_path / "segments.jsonl", "run", second.check)
    with first.held():
        assert early.start(0, 3, "data", None, trace=True) == 0
        first.check()
        with second.held():
            assert late.start(0, 2, "data", None, trace=True) == 1
            with pytest.raises(TakenOverError, match="is trained by another start by now"):
                early.finish("failed")
            assert [start.end for start in read_starts(tmp_path / "segments.jsonl")] == [None, None]
            late.reached(64)
    first.check()  # it has left: there is nothing to lose


def _lose_the_lock(world: World, config: Config, at: int) -> str:
    """Another start takes the run over when this one is about to write the record at `at` samples."""
    run = RunDirectory(config.run.dir)
    write = TrainLog.write

    def write_or_lose(log: TrainLog, samples: int, *values: Any) -> None:
        if samples == at and world.is_rank_zero:
            run.lock.path.write_text("process 1 on elsewhere, 0\n", encoding="utf-8")
        write(log, samples, *values)

    TrainLog.write = write_or_lose  # type: ignore[method-assign]
    with pytest.raises(RunError) as caught:
        train(config, world)
    return str(caught.value)


def test_a_training_that_was_taken_over_ends_and_leaves_the_run_as_it_is(dataset: Path, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"checkpoint": {"every_samples": 64}, "log": {"every_samples": 64}}
    config = make_config(dataset, run={"dir": str(tmp_path / "run")}, train={"samples": 640}, **sections)
    (told,) = run_on_ranks(1, _lose_the_lock, config, 320)
    assert "is trained by another start by now (process 1 on elsewhere)" in told

    run = RunDirectory(config.run.dir)
    assert read_records(run.train_log)[-1]["samples"] == 256
    assert int(list_folders(run.checkpoints)[-1]) <= 256
    assert read_starts(run.segments)[0].end is None
