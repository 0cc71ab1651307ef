"""Rows with bad values in a training: an error with its way out, or skipped, counted and accounted for."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config, nothing_to_measure, write_dataset
from trainer.analysis.audit.audit import EpochAccount, audit_run
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import RunError
from trainer.run.jsonl import read_records
from trainer.train import train

ROWS, GROUP, BATCH = 1600, 100, 64
TRAINED = ROWS // BATCH * BATCH
SKIP = {"on_bad_value": "skip", "bad_values_per_million": 10**6}
SHAPES = {"one": [1234], "ten": [begin + 7 * step for begin in range(0, ROWS, GROUP) for step in range(10)]}
SHAPES["all"] = list(range(ROWS))


def write_log(folder: Path, bad: list[int]) -> dict[str, np.ndarray]:
    """Some rows have a bad label, those with an even number a bad user too; every 50th age is NaN."""
    write_dataset(folder / "train", ROWS, seed=1, rows_per_group=GROUP)
    write_dataset(folder / "test", 101, seed=2)
    paths = sorted((folder / "train").iterdir())
    table = pa.concat_tables(map(pq.read_table, paths))
    is_bad, number = np.isin(np.arange(ROWS), bad), np.arange(ROWS)
    values = {
        "user": np.where(is_bad & (number % 2 == 0), 10**6, table["user"].to_numpy()),
        "click": np.where(is_bad, 7, table["click"].to_numpy()).astype(np.int8),
        "age": np.where(number % 50 == 0, math.nan, 1.0).astype(np.float32),
    }
    for name, array in values.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(array))
    for path, begin in zip(paths, (0, ROWS // 2), strict=True):
        pq.write_table(table.slice(begin, ROWS // 2), path, row_group_size=GROUP)
    return values


def log_config(folder: Path, data: dict[str, Any], **sections: Any) -> Config:
    usual = {"run": {"dir": str(folder / "run"), "trace": True}, "train": {"samples": TRAINED}, **sections}
    return make_config(folder, data={"block_rows": 64, **data}, **usual)


def outcome(world: World, config: Config) -> str | None:
    try:
        train(config, world)
    except (RunError, DataError) as error:
        return str(error)
    return None


def sums(folder: Path) -> dict[str, int]:
    """What train.jsonl counts, over all windows."""
    found: dict[str, int] = {}
    for record in read_records(folder / "run" / "train.jsonl"):
        for key in record:
            if key.startswith(("bad_values/", "not_finite/")):
                found[key] = found.get(key, 0) + record[key]
    return found


def account(folder: Path) -> EpochAccount:
    audit = audit_run(folder / "run")
    assert audit.promises_broken == ()
    (epoch,) = audit.epochs
    return epoch


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_bad_rows_are_skipped_and_the_accounts_equal_a_count(tmp_path: Path, shape: str, ranks: int) -> None:
    bad = SHAPES[shape]
    values = write_log(tmp_path, bad)
    config = log_config(tmp_path, {**SKIP, "order": "stored"})
    assert run_on_ranks(ranks, outcome, config) == [None] * ranks

    even = sum(row % 2 == 0 for row in bad)
    num_nan = sum(math.isnan(age) for row, age in enumerate(values["age"]) if row not in set(bad))
    expected = {"bad_values/user": even, "bad_values/click": len(bad) - even, "not_finite/age": num_nan}
    assert sums(tmp_path) == {key: count for key, count in expected.items() if count}

    events = [event for event in read_records(tmp_path / "run" / "events.jsonl") if event["event"] == "bad_values"]
    rows = [
        ROWS // 2 * int(event["file"] == "part-1.parquet") + GROUP * event["row_group"] + row
        for event in events
        for begin, end in event["ranges"]
        for row in range(begin, end)
    ]
    assert sorted(rows) == bad
    assert sum(event["rows"] for event in events) == len(bad)

    epoch = account(tmp_path)
    assert (epoch.bad_value, epoch.trained_once, epoch.traced) == (len(bad), TRAINED - len(bad), TRAINED - len(bad))


def test_a_run_that_a_bad_value_stops_goes_on_as_its_error_says(tmp_path: Path) -> None:
    """The same command again, with one key more."""
    write_log(tmp_path, [1551])  # late in its lane
    sections = {"checkpoint": {"every_samples": BATCH}, **nothing_to_measure(tmp_path)}
    (message,) = run_on_ranks(1, outcome, log_config(tmp_path, {"order": "stored"}, **sections))
    assert "label 'click' is 7; a binary label is 0, 1 or null" in str(message)
    assert str(message).endswith("or start again with --set data.on_bad_value=skip, which gives such rows weight 0")
    assert list((tmp_path / "run" / "checkpoints").iterdir())

    data = {"order": "stored", "on_bad_value": "skip"}
    assert run_on_ranks(2, outcome, log_config(tmp_path, data, **sections)) == [None, None]
    assert account(tmp_path).bad_value == 1
    assert sums(tmp_path)["bad_values/click"] == 1


def test_a_limit_stops_the_run_and_no_row_is_counted_twice_when_it_goes_on(tmp_path: Path) -> None:
    bad = SHAPES["ten"]
    write_log(tmp_path, bad)
    sections = {"checkpoint": {"every_samples": BATCH}, "log": {"every_samples": 5 * BATCH}}
    first = run_on_ranks(2, outcome, log_config(tmp_path, {"on_bad_value": "skip"}, **sections))
    assert first[0] == first[1]
    assert "rows of this start hold bad values, more than 10 and than data.bad_values_per_million = 100; " in str(first)
    for per_million, ranks in ((120_000, 1), (10**6, 2)):
        data = {"on_bad_value": "skip", "bad_values_per_million": per_million}
        results = run_on_ranks(ranks, outcome, log_config(tmp_path, data, **sections))
    assert results == [None, None]

    found = sums(tmp_path)
    assert found["bad_values/user"] + found["bad_values/click"] == len(bad)
    epoch = account(tmp_path)
    assert (epoch.bad_value, epoch.trained_once) == (len(bad), TRAINED - len(bad))


def test_evaluation_fails_on_a_bad_value(tmp_path: Path) -> None:
    write_log(tmp_path, [])
    path = tmp_path / "test" / "part-1.parquet"
    table = pq.read_table(path)
    index = table.schema.get_field_index("click")
    pq.write_table(table.set_column(index, "click", pa.array([9] * len(table), pa.int8())), path)
    (message,) = run_on_ranks(1, outcome, log_config(tmp_path, SKIP))
    assert str(message).endswith("label 'click' is 9; a binary label is 0, 1 or null")
