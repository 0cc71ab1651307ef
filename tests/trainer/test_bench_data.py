"""`adatt bench data`: the records that scripts read, and that the plain loop does the work of the stream."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.data import bench_config, bench_reading
from benchmarks.plain_reading import plain_batches
from data.columns.decode import Columns
from data.columns.numbers import Label
from data.discovery.dataset import read_manifest
from data.features import DenseFeature, Features, SparseFeature
from data.reading import Reading
from data.stream import stream
from tests.trainer.datasets import config_values, write_dataset
from trainer.config.load import parse_config
from trainer.errors import ConfigError

CONTRACT = {
    "rows_per_second",
    "raw_rows_per_second",
    "fraction_of_raw",
    "loop_rows_per_second",
    "dataloader_rows_per_second",
    "threads",
    "peak_bytes",
}


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    """64 rows in four row groups."""
    numbers = np.arange(64)
    columns = {
        "id": numbers,
        "ids": [[number, number + 1][: number % 3] for number in numbers.tolist()],
        "word": [f"word {number}" for number in numbers],
        "number": np.sqrt(numbers),
        "click": numbers % 2,
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=16)
    features = Features(
        sparse=(
            SparseFeature(column="id", table="t"),
            SparseFeature(column="ids", table="t"),
            SparseFeature(column="word", table="t", hash=True),
        ),
        dense=(DenseFeature(column="number", transform="log1p", mean=0.5, scale=2.0),),
    )
    wanted = Columns(features, {"t": 100}, (Label("click", binary=True),))
    return Reading(read_manifest(str(tmp_path), cache=None), wanted, 8, 4, "shuffled", 17)


def test_the_records_hold_what_scripts_read(reading: Reading) -> None:
    records = bench_reading("small", reading, rounds=1, rows=64)
    settings = [(record["order"], record["threads"]) for record in records]
    assert settings == [("shuffled", 1), ("shuffled", 2), ("stored", 1), ("stored", 2)]
    for record in records:
        assert record.keys() >= CONTRACT
        assert all(record[key] > 0 for key in CONTRACT)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("sparse", {"cross": ["user", "video"], "name": "odd"}),
        ("sparse", {"column": "video", "name": "odd", "vocabulary": "auto"}),
        ("sparse", {"column": "user", "name": "odd", "boundaries": "quantiles:3"}),
        ("dense", {"column": "weight", "transform": "sqrt"}),
        ("dense", {"column": "odd", "size": 3}),
    ],
)
def test_what_the_loops_do_not_know_is_refused(tmp_path: Path, kind: str, keys: dict[str, Any]) -> None:
    values = config_values(tmp_path)
    values["features"][kind].append({**keys, **({"table": "other"} if kind == "sparse" else {})})
    values["tables"] += [{"name": "other", "rows": 50, "dim": 4}] * (kind == "sparse")
    write_dataset(tmp_path / "train", 600, seed=1)
    table = pq.read_table(tmp_path / "train")
    odd = pa.array([[1.0, 2.0, 3.0]] * table.num_rows)
    pq.write_table(table.append_column("odd", odd), tmp_path / "one.parquet")
    values["data"]["train"] = str(tmp_path / "one.parquet")
    with pytest.raises(ConfigError, match=r"^'(odd|weight)' has .*, which the loops to compare with do not know"):
        bench_config(parse_config(values, "test"), 1, 64)


def test_the_plain_loop_makes_the_rows_of_the_stream(reading: Reading) -> None:
    """Every value of every row, in another order."""
    ours = set()
    batches = stream(reading, range(4), 0)
    for batch in islice(batches, 8):
        tensors = (batch.dense_BD, batch.labels_BT, batch.label_weights_BT)
        ours |= rows_of(batch.sparse.to_dict(), *tensors)
    batches.close()

    theirs = set()
    for batch in plain_batches(reading, range(4)):
        theirs |= rows_of(batch[0].to_dict(), *batch[1:])
    assert len(ours) == 64
    assert ours == theirs


def rows_of(features: dict, *tensors) -> set[tuple]:  # type: ignore[no-untyped-def,type-arg]
    bags = [[tuple(bag.tolist()) for bag in feature.to_dense()] for feature in features.values()]
    return set(zip(*bags, *(map(tuple, tensor.tolist()) for tensor in tensors), strict=True))
