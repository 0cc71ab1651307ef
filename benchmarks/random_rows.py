"""Random rows that fit a config, so that its training can be timed where its data is not."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from data.storage.writer import write_parquet
from trainer.config.run_config import Config

ROWS = 1 << 17
_ROW_GROUP_ROWS = 1 << 14
_MAKE_GROUPS = 2
"""Different row groups: the others repeat them, since random numbers take longer than Parquet."""
_SKEW = 3
"""Ids are rows · uniform^_SKEW: a thousandth of a table's rows has a tenth of them, as in logs."""


def write_random_rows(config: Config, folder: Path, ids: int) -> None:
    """Writes ROWS rows to `folder`: every sparse feature has a list of `ids` ids on average, or just one each."""
    random = np.random.default_rng(config.run.seed)
    made = [_table(config, random, ids) for _ in range(_MAKE_GROUPS)]
    tables = (made[number % _MAKE_GROUPS] for number in range(ROWS // _ROW_GROUP_ROWS))
    folder.mkdir(parents=True)
    write_parquet(folder / "part-0.parquet", made[0].schema, tables, _ROW_GROUP_ROWS)


def _table(config: Config, random: np.random.Generator, ids: int) -> pa.Table:
    table_rows = {table.name: table.rows for table in config.tables}
    limits: dict[str, int] = {}
    """Of the ids in each column."""
    for feature in config.features.sparse:
        limit = table_rows[feature.table]
        limits[feature.column] = min(limit, limits.get(feature.column, limit))

    columns: dict[str, pa.Array] = {}
    for feature in config.features.sparse:
        if feature.is_bucketed:
            columns[feature.column] = _numbers(random)
        else:
            columns[feature.column] = _ids(random, limits[feature.column], ids)
    for dense in config.features.dense:
        columns.setdefault(dense.column, _numbers(random))
    for task in config.tasks:
        is_positive = random.random(_ROW_GROUP_ROWS) < 0.1
        columns[task.label] = pa.array(is_positive.astype(np.int8)) if task.binary else _numbers(random)
    if config.data.weight:
        columns[config.data.weight] = pa.array(np.ones(_ROW_GROUP_ROWS, np.float32))
    return pa.table(columns)


def _numbers(random: np.random.Generator) -> pa.Array:
    return pa.array(random.standard_normal(_ROW_GROUP_ROWS).astype(np.float32))


def _ids(random: np.random.Generator, limit: int, ids: int) -> pa.Array:
    """One id a row, or lists of 0 to 2 · `ids`."""
    if ids == 1:
        return pa.array(_skewed(random, limit, _ROW_GROUP_ROWS))
    offsets = np.zeros(_ROW_GROUP_ROWS + 1, np.int32)
    np.cumsum(random.integers(0, 2 * ids + 1, _ROW_GROUP_ROWS), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(_skewed(random, limit, offsets[-1])))


def _skewed(random: np.random.Generator, limit: int, count: int) -> np.ndarray:
    return (limit * random.random(count) ** _SKEW).astype(np.int64)
