"""`adatt train --accept-changed-data`: a repaired file of the same rows is accepted, recorded, and trains alike."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.storage.manifest_file import load_manifest
from tests.ranks import run_on_ranks
from tests.trainer.days import add, config_of
from tests.trainer.training import train_or_explain
from trainer.analysis.audit.audit import audit_run
from trainer.config.run_config import Config
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.run.records import ChangedDataEvent, read_events

NAME = "dt=2022-04-25/part-0.parquet"


def repair(log: Path) -> None:
    """The same rows in other bytes."""
    table = pq.read_table(log / NAME, partitioning=None)
    pq.write_table(table, log / NAME, row_group_size=60, compression="gzip")


def accepting(config: Config) -> Config:
    run = config.run.model_copy(update={"accept_changed_data": True})
    return config.model_copy(update={"run": run})


@pytest.mark.parametrize(("order", "world_size"), [("chronological", 1), ("shuffled", 2)])
def test_a_repaired_file_is_accepted_when_asked_for(days: Path, tmp_path: Path, order: str, world_size: int) -> None:
    log, run = tmp_path / "log", RunDirectory(tmp_path / "run")
    for day in (24, 25):
        add(days, log, day)

    def until(samples: int, folder: str = "run") -> Config:
        return config_of(days, log, tmp_path / folder, data={"order": order}, train={"samples": samples})

    undisturbed = [None] * world_size
    assert run_on_ranks(world_size, train_or_explain, until(384, "once")) == undisturbed
    assert run_on_ranks(world_size, train_or_explain, until(128)) == undisturbed
    first = load_manifest(run.manifests["train"]).fingerprint

    repair(log)
    (message, *_) = run_on_ranks(world_size, train_or_explain, until(256))
    assert f"the contents of {NAME} changed (same number of rows and row groups); restore it, train in" in message
    assert message.endswith("or, if its rows are the same, accept it with --accept-changed-data")

    assert run_on_ranks(world_size, train_or_explain, accepting(until(256))) == undisturbed
    assert run_on_ranks(world_size, train_or_explain, until(384)) == undisturbed, "it is the run's now"
    events = [event for event in read_events(run.events) if isinstance(event, ChangedDataEvent)]
    assert [(event.samples, event.segment, event.files) for event in events] == [(128, 1, [NAME])]
    assert "accept_changed_data" not in run.config_file.read_text()
    assert load_manifest(run.manifests["train"]).fingerprints[1:] == (first,)

    audit = audit_run(run.path)
    assert audit.promises_broken == ()
    assert [(account.trained_once, account.traced) for account in audit.epochs] == [(384, 384)]
    losses = [[record["loss"] for record in read_records(tmp_path / name / "train.jsonl")] for name in ("once", "run")]
    assert losses[0] == losses[1]


def test_test_data_that_have_changed_are_refused(days: Path, tmp_path: Path) -> None:
    """Metrics of two test sets cannot be compared."""
    log, test = tmp_path / "log", tmp_path / "test"
    add(days, log, 24)
    add(days, test.parent / "coming", 25)
    (tmp_path / "coming").rename(test)
    config = config_of(days, log, tmp_path / "run", data={"test": str(test)}, train={"samples": 64})
    assert run_on_ranks(1, train_or_explain, config) == [None]
    repair(test)
    (message,) = run_on_ranks(1, train_or_explain, accepting(config))
    assert message.endswith(
        f"{NAME} changed (same number of rows and row groups); restore it, or train in another folder"
    )
