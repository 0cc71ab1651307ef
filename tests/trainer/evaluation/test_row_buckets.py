"""Rows that belong together: intervals that cover the truth where users differ, and which bucket a row is in."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from threadpoolctl import threadpool_limits

from data.columns.texts import hash_texts
from data.discovery.dataset import read_manifest
from data.hashing import Int64, fold
from tests.ranks import run_on_ranks
from tests.trainer.datasets import USERS, make_config
from tests.trainer.training import evaluation_records
from trainer.analysis.compare.bootstrap import FEWEST_BUCKETS, Floats, compare_losses
from trainer.analysis.compare.compare import compare_runs
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.evaluation.bucket_sums import read_buckets
from trainer.evaluation.row_buckets import BUCKETS, bucket_rows, unit_codes
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train

EFFECT = 0.02
"""By how much the second model's loss is higher, on average over users."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small are slower on several threads where other processes are busy."""
    with threadpool_limits(1):
        yield


def draw_users(random: np.random.Generator, users: int, spread: float) -> tuple[Int64, Floats, Floats]:
    """The user of each row, and the losses of two models: users differ in how the second model suits them.

    `spread` is that of the logarithm of the number of rows of a user.
    """
    rows = np.ceil(20 * random.lognormal(0, spread, users)).astype(int)
    user = np.repeat(np.arange(users), rows)
    first = random.exponential(1.0, len(user))
    suits = 0.15 * random.normal(size=users)[user] + 0.2 * random.normal(size=len(user))
    return user, first, first * (1 + EFFECT + suits)


def summed(bucket: Int64, losses: Floats, count: int) -> dict[int, Floats]:
    return {1: np.bincount(bucket, losses, count)}


@pytest.mark.parametrize(
    ("users", "spread"), [(FEWEST_BUCKETS, 0.9), (100, 0.9), (542, 0.0), (542, 1.2), (3_000, 0.9)], ids=str
)
def test_intervals_cover_the_truth_where_users_differ(users: int, spread: float) -> None:
    """With the unit in 93 to 97 % of 1,000 repetitions; with rows taken as independent far less often."""
    repetitions, random = 1_000, np.random.Generator(np.random.Philox(8))
    by_user = by_row = 0
    for _ in range(repetitions):
        user, first, second = draw_users(random, users, spread)
        count = min(users, BUCKETS)
        units = user if users <= BUCKETS else fold(user, BUCKETS)
        rows = random.integers(0, BUCKETS, len(user))
        for bucket, number in ((units, count), (rows, BUCKETS)):
            found = compare_losses(summed(bucket, first, number), summed(bucket, second, number), 500)
            assert found is not None
            covered = found.low <= 100 * EFFECT <= found.high
            by_user += covered and bucket is units
            by_row += covered and bucket is rows
    assert 0.93 <= by_user / repetitions <= 0.97
    assert by_row / repetitions < 0.75


def test_one_heavy_user_gives_no_interval() -> None:
    loss_K = np.ones(200)
    loss_K[0] = 10_000
    found = compare_losses({1: loss_K}, {1: loss_K * 1.1})
    assert found is not None
    assert (found.relative, found.low, found.high) == (pytest.approx(10), -math.inf, math.inf)


def write_rows(folder: Path, values: pa.Array) -> str:
    folder.mkdir()
    pq.write_table(pa.table({"unit": values}), folder / "part.parquet", row_group_size=100)
    return str(folder)


def _buckets(world: World, data: str, rows: int) -> tuple[int, list[int]]:
    bucketing = bucket_rows("unit", read_manifest(data, None), 1, world)
    row_ids_B = torch.cat([torch.arange(rows), torch.tensor([-1])])  # a row of padding at the end
    buckets = bucketing.of(row_ids_B).tolist()
    assert 0 <= buckets.pop() < bucketing.count
    return bucketing.count, buckets


KINDS: dict[str, pa.DataType] = {
    "int": pa.int32(),
    "unsigned": pa.uint64(),
    "float": pa.float64(),
    "text": pa.string(),
    "large text": pa.large_string(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
}


def _values(kind: str, numbers: Int64) -> pa.Array:
    if kind in ("text", "large text", "dictionary"):
        return pa.array([f"user {number}" for number in numbers]).cast(KINDS[kind])
    return pa.array(numbers).cast(KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_few_units_have_a_bucket_each(kind: str, tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).integers(0, 120, 1_000)
    data = write_rows(tmp_path / "rows", _values(kind, numbers))
    count, buckets = run_on_ranks(1, _buckets, data, len(numbers))[0]
    units = len(np.unique(numbers))
    assert count == units
    assert len(set(zip(numbers.tolist(), buckets, strict=True))) == units
    assert set(buckets) == set(range(units))
    assert run_on_ranks(2, _buckets, data, len(numbers)) == [(count, buckets)] * 2


def test_many_units_share_buckets_by_their_hash(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).permutation(np.repeat(np.arange(2_000), 3))
    data = write_rows(tmp_path / "rows", pa.array(numbers))
    count, buckets = run_on_ranks(1, _buckets, data, len(numbers))[0]
    assert count == BUCKETS
    assert buckets == fold(numbers, BUCKETS).tolist()
    assert len(set(buckets)) > 800


def test_a_row_without_a_value_is_its_own_unit(tmp_path: Path) -> None:
    values = pa.array([1.0, None, float("nan"), 1.0, 2.0, None, -0.0, 0.0])
    data = write_rows(tmp_path / "rows", values)
    count, buckets = run_on_ranks(1, _buckets, data, len(values))[0]
    assert count == 6
    assert buckets[0] == buckets[3]
    assert buckets[6] == buckets[7]
    assert len(set(buckets)) == 6


def test_codes_do_not_depend_on_the_row_group() -> None:
    texts = pa.chunked_array([["b", "a", None], ["a"]])
    codes = unit_codes(texts, 10)
    assert codes[1] == codes[3] == hash_texts(pa.array(["a"]))[0]
    assert codes[2] == unit_codes(pa.chunked_array([pa.array([None], pa.int64())]), 12)[0]
    assert unit_codes(pa.chunked_array([[True, False]]), 0).tolist() == [1, 0]


def _train(world: World, config: Config) -> None:
    train(config, world)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run whose first evaluation is by user, on two ranks."""
    folder = tmp_path_factory.mktemp("units") / "run"
    config = make_config(dataset, run={"dir": str(folder)}, train={"samples": 128}, evaluate={"unit": "user"})
    run_on_ranks(2, _train, config)
    return RunDirectory(folder)


def test_training_leaves_the_sums_of_each_user(trained: RunDirectory, dataset: Path) -> None:
    table = pq.read_table(dataset / "test")
    buckets = read_buckets(trained.buckets_file(128))
    assert buckets.unit == "user"
    click = buckets.tasks["click"].sums_6K
    assert click.shape == (6, USERS)
    assert click[0].tolist() == np.bincount(table["user"].to_numpy()).tolist()
    record = next(entry for entry in read_records(trained.evaluations) if entry["task"] == "click")
    assert click[2].sum() / click[1].sum() == pytest.approx(record["log_loss"], rel=1e-12)
    (first, *_) = compare_runs(str(trained.path), [str(trained.path)]).differences
    assert (first.unit, first.buckets) == ("user", USERS)


def _evaluate(world: World, run: str, unit: str | None, data: str | None = None) -> list[dict[str, Any]]:
    return evaluation_records(run, "latest", data, world, unit)


def test_an_evaluation_by_hand_replaces_buckets_of_another_unit(trained: RunDirectory, dataset: Path) -> None:
    path, run = trained.buckets_file(128), str(trained.path)
    by_user = path.read_bytes()
    run_on_ranks(1, _evaluate, run, None)
    assert path.read_bytes() == by_user  # as training wrote it
    for unit, count in (("video", 30), ("", BUCKETS), ("user", USERS)):
        run_on_ranks(1, _evaluate, run, unit)
        found = read_buckets(path)
        assert (found.unit or "", found.tasks["click"].sums_6K.shape[1]) == (unit, count)
    run_on_ranks(1, _evaluate, run, "video", str(dataset / "train"))
    (other,) = trained.path.glob("evaluations/*/128.parquet")
    assert read_buckets(other).unit == "video"


def _refusal(world: World, config: Config) -> str:
    with pytest.raises(ConfigError) as caught:
        train(config, world)
    return str(caught.value)


@pytest.mark.parametrize(
    ("column", "told"),
    [("userid", "evaluate.unit: no column 'userid' in "), ("recent", "evaluate.unit: column 'recent' is list<")],
)
def test_a_column_that_is_no_unit_is_refused(column: str, told: str, dataset: Path, tmp_path: Path) -> None:
    config = make_config(dataset, run={"dir": str(tmp_path / "run")}, evaluate={"unit": column})
    assert run_on_ranks(1, _refusal, config)[0].startswith(told)
    assert not (tmp_path / "run").exists()


def test_the_unit_may_change_between_starts(trained: RunDirectory, dataset: Path) -> None:
    config = make_config(dataset, run={"dir": str(trained.path)}, train={"samples": 128}, evaluate={"unit": "video"})
    trained.check(config)
