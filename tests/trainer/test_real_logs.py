"""A log as logs are: dated folders, files that differ in types and columns, times, maps, structs, vectors.

Every recipe at once is trained, resumed on other ranks, evaluated and predicted from.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.discovery.source import Source, source_of
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.training import evaluation_records, train_or_explain
from trainer.config.run_config import Config
from trainer.datasets import lacking_columns, open_dataset, train_reading
from trainer.distributed.world import World
from trainer.prediction.predict import predict_run
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train

DAYS = [date(2022, 4, 25) + timedelta(days=number) for number in range(4)]
ROWS = 400
"""A day."""
FEATURES = {
    "sparse": [
        {"column": "user", "table": "user", "hash": True, "hashes": 2, "pooling": "mean"},
        {"column": "context.tab", "table": "small"},
        {"column": "at", "table": "times", "parts": ["hour", "day_of_week"], "timezone": "Asia/Shanghai"},
        {"column": "scores.key", "weights": "scores.value", "table": "user", "pooling": "mean", "name": "scores"},
        {"column": "recent", "table": "user", "last": 2, "name": "recent"},
        {"cross": ["user", "context.tab"], "table": "user", "seed": 3},
        {"column": "added", "table": "small", "missing": "null"},
        {"column": "user", "table": "names", "vocabulary": "auto", "min_count": 5, "unknown_rows": 2, "name": "name"},
        {"column": "recent", "table": "places", "vocabulary": "auto", "name": "place"},
        {"column": "hour", "table": "small"},
    ],
    "dense": [
        {"column": "price", "clip": [0.0, 50.0], "transform": "sqrt", "fill": 1.0},
        {"column": "picture", "size": 3},
        {"column": "at", "since": "published"},
    ],
}
TABLES = [
    {"name": "user", "rows": 97, "dim": 8},
    {"name": "small", "rows": 40, "dim": 4},
    {"name": "times", "rows": 31, "dim": 4},
    {"name": "names", "rows": 40, "dim": 4},
    {"name": "places", "rows": 3, "dim": 4},
]
TASKS = [
    {"name": "click", "kind": "binary", "label": "click"},
    {"name": "late", "kind": "binary", "label": "late", "missing": "null"},
]


def day_of(number: int) -> pa.Table:
    """The rows of a day; odd days are of another writer, and the last has new columns."""
    random = np.random.default_rng(number)
    user = random.integers(0, 50, ROWS)
    tab = random.integers(0, 5, ROWS)
    is_odd = number % 2
    seconds = random.integers(0, 86_400, ROWS)
    at = [datetime(2022, 4, 25 + number) + timedelta(seconds=int(second)) for second in seconds]
    scores = [[(int(key), float(key) / 10) for key in random.integers(0, 97, 2)] for _ in range(ROWS)]
    pair = pa.struct({"key": pa.int32(), "value": pa.float64()})
    as_structs = pa.array([[{"key": key, "value": value} for key, value in row] for row in scores], pa.list_(pair))
    click = random.random(ROWS) < 1 / (1 + np.exp(-(user % 7 - 3) - (tab - 2)))
    picture = random.normal(size=(ROWS, 3)).round(3)

    columns: dict[str, Any] = {
        "user": pa.array([f"u{number}" for number in user]),
        "context": pa.StructArray.from_arrays([pa.array(tab, pa.float64() if is_odd else pa.int8())], ["tab"]),
        "at": pa.array(at, pa.timestamp("us" if is_odd else "ms")),
        "published": pa.array([moment.date() for moment in at], pa.date32()),
        "scores": as_structs if is_odd else pa.array(scores, pa.map_(pa.int64(), pa.float32())),
        "recent": pa.array([list(range(length % 4)) for length in user], pa.list_(pa.int64())),
        "price": pa.array(random.exponential(20, ROWS), mask=tab == 0),
        "picture": pa.array(picture.tolist(), pa.list_(pa.float32(), 3) if is_odd else pa.large_list(pa.float64())),
        "click": pa.array(click) if is_odd else pa.array(click, pa.float32()),
        "unused": pa.array([number] * ROWS if is_odd else ["x"] * ROWS),
    }
    if is_odd:
        columns["user"] = columns["user"].dictionary_encode()
    if number == len(DAYS) - 1:
        columns |= {"late": pa.array(tab > 2), "added": pa.array(tab)}
    return pa.table(columns)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("logs")
    for number, day in enumerate(DAYS):
        for hour in ("09", "10"):
            folder = root / f"dt={day}" / f"hour={hour}"
            folder.mkdir(parents=True)
            half = slice(0, ROWS // 2) if hour == "09" else slice(ROWS // 2, ROWS)
            table = day_of(number).slice(half.start, half.stop - half.start)
            pq.write_table(table, folder / "part-0.parquet", row_group_size=60)
        (root / f"dt={day}" / "_SUCCESS").touch()
    return root


def config_of(logs: Path, folder: Path, **sections: Any) -> Config:
    data = {
        "train": str(logs),
        "where": "dt < 2022-04-28",
        "test": [f"{logs}/dt=2022-04-27", f"{logs}/dt=2022-04-28"],
        "test_where": "hour=10",
    }
    sections = {"train": {"samples": 1152}, **sections}
    return make_config(
        folder, data=data, features=FEATURES, tables=TABLES, tasks=TASKS, run={"dir": str(folder / "run")}, **sections
    )


def _train(world: World, config: Config) -> list[float]:
    train(config, world)
    return [record["loss"] for record in read_records(RunDirectory(config.run.dir).train_log)]


@pytest.fixture(scope="module")
def trained(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("one")
    return folder, run_on_ranks(1, _train, config_of(logs, folder))[0]


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_two_ranks_are_one(logs: Path, trained: tuple[Path, list[float]], tmp_path: Path, sharding: str) -> None:
    """Stopped half way on two ranks, and gone on with on one."""
    options = {"sharding": {"allow": [sharding]}}
    run_on_ranks(2, _train, config_of(logs, tmp_path, train={"samples": 576}, **options))
    losses = run_on_ranks(1, _train, config_of(logs, tmp_path, **options))[0]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(trained[1]), rtol=1e-4, atol=0)


def test_rows_without_a_column_are_counted(logs: Path, tmp_path: Path) -> None:
    config = config_of(logs, tmp_path, train={"samples": 64})
    data = config.data.model_copy(update={"where": None})
    columns = run_on_ranks(1, _lacking, config.model_copy(update={"data": data}))[0]
    assert columns == [
        f"column {name!r} is in no file of 1,200 of the 1,600 training rows: it is null in them"
        for name in ("added", "late")
    ]


def _lacking(world: World, config: Config) -> list[str]:
    return lacking_columns(train_reading(config, open_dataset(config.data.train_source, config, world)))


def test_predictions_and_evaluations_are_of_the_wanted_partitions(
    logs: Path, trained: tuple[Path, list[float]], tmp_path: Path
) -> None:
    run = str(trained[0] / "run")
    records = run_on_ranks(2, _evaluate, run)[0]
    assert {record["task"]: record["examples"] for record in records} == {"click": ROWS, "late": ROWS // 2}

    source = source_of(str(logs), "dt = 2022-04-28 and hour = 9")
    columns = "dt,hour,context.tab as tab,click as clicked"
    run_on_ranks(2, _predict, run, source, str(tmp_path / "out"), columns)
    scored = pq.read_table(tmp_path / "out")
    expected = day_of(3).slice(0, ROWS // 2)
    assert scored["dt"].to_pylist() == [date(2022, 4, 28)] * (ROWS // 2)
    assert scored["hour"].unique().to_pylist() == [9]
    assert scored["tab"].to_pylist() == [row["tab"] for row in expected["context"].to_pylist()]
    assert scored["clicked"].to_pylist() == expected["click"].to_pylist()
    clicks = np.array(scored["clicked"].to_pylist(), bool)
    assert scored["click"].to_numpy()[clicks].mean() > scored["click"].to_numpy()[~clicks].mean()


def _evaluate(world: World, run: str) -> list[dict[str, Any]]:
    return evaluation_records(run, "latest", None, world)


def _predict(world: World, run: str, source: Source, out: str, columns: str) -> None:
    predict_run(run, "latest", source, out, columns, world)


def bad_files() -> Iterator[tuple[str, pa.Array, str]]:
    """A column of one file made bad, and what is said of it."""
    good = day_of(0).slice(0, ROWS // 2)
    at = good["at"].combine_chunks()
    yield "scores", pa.array([[(1, float("nan"))]] * len(good), pa.map_(pa.int64(), pa.float32())), "holds weight nan"
    yield "scores", pa.array([[(100, 1.0)]] * len(good), pa.map_(pa.int64(), pa.float32())), "holds id 100, but table"
    yield "picture", pa.array([[1.0, 2.0]] * len(good)), "column 'picture' has 2 numbers, but its feature has size = 3"
    yield "recent", pa.array([[1.5]] * len(good)), "column 'recent' holds 1.5, which is no whole number"
    yield "recent", pa.array([[2**63]] * len(good), pa.list_(pa.uint64())), "holds id 9223372036854775808, more than"
    yield "at", at.cast(pa.int64()), "column 'at' is time (timestamp[us]), but integer (int64) in"
    yield "scores", pa.array([[1]] * len(good)), "no column 'scores.key', but"
    yield "user", pa.array([1] * len(good)), "but integer (int64) in"


@pytest.mark.parametrize("case", range(8))
def test_bad_columns_are_named(logs: Path, tmp_path: Path, case: int) -> None:
    name, array, message = list(bad_files())[case]
    good = day_of(0).slice(0, ROWS // 2)
    path = tmp_path / "logs" / "dt=2022-04-25" / "hour=09" / "part-0.parquet"
    path.parent.mkdir(parents=True)
    (tmp_path / "logs" / "dt=2022-04-26").symlink_to(logs / "dt=2022-04-26")
    pq.write_table(good.set_column(good.column_names.index(name), name, array), path)
    config = config_of(logs, tmp_path, train={"samples": 512})
    data = config.data.model_copy(update={"train": str(tmp_path / "logs")})
    explained = run_on_ranks(1, train_or_explain, config.model_copy(update={"data": data}))
    assert message in explained[0]
    assert "\n" not in explained[0]
    assert not (tmp_path / "run").exists()
