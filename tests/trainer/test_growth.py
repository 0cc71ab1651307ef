"""A log that grows day by day is trained as one that was whole from the start: to the bit, each row once."""

import json
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import pytest

from tests.ranks import run_on_ranks
from tests.trainer.days import DAYS, add, config_of
from tests.trainer.training import train_or_explain
from trainer.analysis.audit.audit import audit_run
from trainer.checkpoint.storage import list_folders
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train


def _train(world: World, config: Config) -> None:
    train(config, world)


def _notes(world: World, config: Config) -> list[str]:
    """What this rank says of the data."""
    with redirect_stderr(StringIO()) as errors:
        train(config, world)
    return [line for line in errors.getvalue().splitlines() if line.startswith("note: ")]


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_records(RunDirectory(run).train_log)]


def test_day_by_day_is_all_at_once(days: Path, tmp_path: Path) -> None:
    """A day arrives while a run of the day before is stopped half way; the oldest is removed once it is trained."""
    run_on_ranks(1, _train, config_of(days, days / "all", tmp_path / "once"))

    log = tmp_path / "log"
    config = config_of(days, log, tmp_path / "daily")
    for number, day in enumerate(DAYS):
        add(days, log, day)
        if number == 1:
            run_on_ranks(1, _train, config_of(days, log, tmp_path / "daily", train={"samples": 256}))
            continue
        if number == 3:
            shutil.rmtree(log / "dt=2022-04-24")
        run_on_ranks(1, _train, config)

    assert losses(tmp_path / "daily") == losses(tmp_path / "once")
    audit = audit_run(tmp_path / "daily")
    assert audit.promises_broken == ()
    (account,) = audit.epochs
    batches = sum(DAYS.values()) // 64
    assert (account.rows, account.trained_once, account.traced) == (sum(DAYS.values()), 64 * batches, 64 * batches)
    assert account.incomplete_batch == sum(DAYS.values()) - 64 * batches
    once, daily = (RunDirectory(tmp_path / name) for name in ("once", "daily"))
    last = [read_records(run.evaluations)[-1] for run in (once, daily)]
    assert {key: value for key, value in last[0].items() if key != "seconds"} == {
        key: value for key, value in last[1].items() if key != "seconds"
    }
    reached = [start["to"] for start in map(json.loads, daily.segments.read_text().splitlines())]
    assert reached == [192, 256, 711 // 64 * 64, 718 // 64 * 64, 958 // 64 * 64]


def test_a_day_counts_once_it_is_complete(days: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for day in (24, 25):
        add(days, log, day)
    marker = log / "dt=2022-04-25" / "_SUCCESS"
    marker.unlink()
    config = config_of(days, log, tmp_path / "run")
    notes = run_on_ranks(2, _notes, config)
    assert notes == [["note: 1 window waits for '_SUCCESS': dt=2022-04-25"], []]
    assert int(list_folders(RunDirectory(tmp_path / "run").checkpoints)[-1]) == 203 // 64 * 64
    marker.touch()
    run_on_ranks(2, _train, config)
    assert int(list_folders(RunDirectory(tmp_path / "run").checkpoints)[-1]) == 401 // 64 * 64
    (log / "dt=2022-04-24" / "_SUCCESS").unlink()
    marker.unlink()
    (message,) = run_on_ranks(1, train_or_explain, config)
    assert message == f"dataset {log}: none of its 2 folders holds '_SUCCESS' yet, as data.complete asks"


@pytest.mark.parametrize("world_size", [1, 2])
def test_what_has_changed_is_refused_by_name(days: Path, tmp_path: Path, world_size: int) -> None:
    log = tmp_path / "log"
    for day in (24, 25):
        add(days, log, day)
    config = config_of(days, log, tmp_path / "run", train={"samples": 128})
    run_on_ranks(1, _train, config)
    shutil.rmtree(log / "dt=2022-04-24")
    add(days, log, 26)
    messages = run_on_ranks(world_size, train_or_explain, config)
    assert {"part-0.parquet is gone, but not all rows of its window" in str(message) for message in messages} == {True}

    shuffled = config_of(days, log, tmp_path / "other", data={"order": "shuffled"}, train={"samples": 128})
    run_on_ranks(1, _train, shuffled)
    add(days, log, 27)
    (message,) = run_on_ranks(1, train_or_explain, shuffled)
    assert "dt=2022-04-27/part-0.parquet is new; restore it, or train in another folder" in message
