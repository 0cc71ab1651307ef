"""Datasets of random rows that `adatt bench data` reads, as wide as production logs are."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.columns.decode import Columns
from data.columns.numbers import Label
from data.features import DenseFeature, Features, SparseFeature

ROW_GROUP_ROWS = 16_384
"""Smaller than usual: 8 lanes have read a row group each after as few rows."""
_IDS = 1_000_000
_MAKE_GROUPS = 2
"""Different row groups of a file: the others repeat them, since random numbers take longer than Parquet."""


@dataclass(frozen=True)
class BenchSchema:
    """A made-up dataset, and how its columns are used."""

    columns: Columns
    make: Callable[[np.random.Generator, int], pa.Table]
    groups: int = 16
    """Of each file."""
    group_rows: int = ROW_GROUP_ROWS
    files: int = 1

    def write(self, folder: Path) -> None:
        """Writes the rows to files that are all alike."""
        random = np.random.default_rng(17)
        made = [self.make(random, self.group_rows) for _ in range(_MAKE_GROUPS)]
        first = folder / "part-0.parquet"
        with pq.ParquetWriter(first, made[0].schema, compression="zstd", write_page_checksum=True) as writer:
            for number in range(self.groups):
                writer.write_table(made[number % _MAKE_GROUPS], row_group_size=self.group_rows)
        for number in range(1, self.files):
            shutil.copy(first, folder / f"part-{number}.parquet")


def _wide(random: np.random.Generator, rows: int) -> pa.Table:
    """120 ids, 20 lists of up to 50, 50 numbers, 10 labels."""
    columns: dict[str, pa.Array] = {}
    for index in range(120):
        columns[f"id_{index}"] = pa.array(random.zipf(1.2, rows) % _IDS)
    for index in range(20):
        lengths = random.integers(0, 51, rows)
        offsets = np.zeros(rows + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        values = random.zipf(1.2, offsets[-1]) % _IDS
        columns[f"list_{index}"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
    for index in range(50):
        columns[f"dense_{index}"] = pa.array(random.standard_normal(rows).astype(np.float32))
    for index in range(10):
        columns[f"label_{index}"] = pa.array((random.random(rows) < 0.1).astype(np.int8))
    return pa.table(columns)


def _small_groups(random: np.random.Generator, rows: int) -> pa.Table:
    """400 ids, 99 numbers and a label: of a small row group, footer and calls take longer than the rows."""
    columns = {f"id_{index}": pa.array(random.integers(0, _IDS, rows)) for index in range(400)}
    for index in range(99):
        columns[f"dense_{index}"] = pa.array(random.standard_normal(rows).astype(np.float32))
    columns["label_0"] = pa.array((random.random(rows) < 0.1).astype(np.int8))
    return pa.table(columns)


def _strings(random: np.random.Generator, rows: int) -> pa.Table:
    """20 columns of strings, each with 1M distinct values, and a label."""
    columns: dict[str, pa.Array] = {}
    for index in range(20):
        numbers = random.integers(0, _IDS, rows)
        columns[f"text_{index}"] = pa.array([f"item_{number:07d}" for number in numbers.tolist()])
    columns["label_0"] = pa.array((random.random(rows) < 0.1).astype(np.int8))
    return pa.table(columns)


_TABLE = {"table": _IDS}
SCHEMAS = {
    "wide": BenchSchema(
        Columns(
            Features(
                sparse=tuple(
                    SparseFeature(column=f"{kind}_{index}", table="table")
                    for kind, count in (("id", 120), ("list", 20))
                    for index in range(count)
                ),
                dense=tuple(DenseFeature(column=f"dense_{index}") for index in range(50)),
            ),
            _TABLE,
            tuple(Label(f"label_{index}", binary=True) for index in range(10)),
        ),
        _wide,
    ),
    "strings": BenchSchema(
        Columns(
            Features(
                sparse=tuple(SparseFeature(column=f"text_{index}", table="table", hash=True) for index in range(20))
            ),
            _TABLE,
            (Label("label_0", binary=True),),
        ),
        _strings,
    ),
    "small_groups": BenchSchema(
        Columns(
            Features(
                sparse=tuple(SparseFeature(column=f"id_{index}", table="table") for index in range(400)),
                dense=tuple(DenseFeature(column=f"dense_{index}") for index in range(99)),
            ),
            _TABLE,
            (Label("label_0", binary=True),),
        ),
        _small_groups,
        groups=100,
        group_rows=64,
        files=4,
    ),
}
