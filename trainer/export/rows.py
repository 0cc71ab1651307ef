"""Rows of a dataset as they are stored: what an export is proven by, and its examples.

Shapes: R rows drawn.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.columns.types import is_list, is_time, plain_type
from data.hashing import Int64
from data.manifest import Manifest
from data.pipeline.blocks import BlockReader
from data.pipeline.row_groups import rows_of_group

GROUPS = 16
"""Row groups that are read, where these have rows enough."""


def draw_rows(manifest: Manifest, names: list[str], count: int) -> list[pa.Table]:
    """Up to `count` rows at even distances from row groups at even distances, with the columns `names`; a table for
    each way of storing them, in the rows' order.

    Raises DataError if they cannot be read.
    """
    filled = np.flatnonzero(manifest.rows)
    num_groups = max(GROUPS, 2 * count * len(filled) // manifest.num_rows)
    groups = filled[_even(len(filled), num_groups)]
    ends = np.cumsum(manifest.rows[groups])
    numbers_R = _even(int(ends[-1]), count)
    tables = []
    with closing(BlockReader(manifest, names)) as blocks:
        for group, end in zip(groups.tolist(), ends.tolist(), strict=True):
            num_rows = int(manifest.rows[group])
            places = numbers_R[(numbers_R >= end - num_rows) & (numbers_R < end)] - (end - num_rows)
            if len(places):
                table = blocks.read(rows_of_group(manifest, group, 0, num_rows))
                tables.append(table.take(pa.array(places)).replace_schema_metadata())
    return [pa.concat_tables(alike).combine_chunks() for _, alike in groupby(tables, key=lambda table: table.schema)]


def take_rows(tables: list[pa.Table], places: Int64) -> list[pa.Table]:
    """Rows by their numbers from the first table's first row on, ascending; tables without one are left out."""
    taken = []
    start = 0
    for table in tables:
        end = start + table.num_rows
        here = places[(places >= start) & (places < end)] - start
        if len(here):
            taken.append(table.take(pa.array(here)))
        start = end
    return taken


def write_rows(folder: Path, tables: list[pa.Table]) -> None:
    """A Parquet file for each table, whose paths are in their order."""
    folder.mkdir()
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number:06}.parquet")


def _even(size: int, count: int) -> Int64:
    """Up to `count` of 0 … size - 1, at even distances."""
    return np.unique(np.linspace(0, size - 1, min(count, size)).astype(np.int64))


def raw_rows(tables: Iterable[pa.Table]) -> Iterator[dict[str, Any]]:
    """Each row as JSON can hold it: what `features.py` reads."""
    for table in tables:
        columns = {name: _texts_of_times(table[name]).to_pylist() for name in table.column_names}
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, map(_as_json, values), strict=True))


def _texts_of_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as ISO 8601 text in UTC, with all of their digits; other columns as they are."""
    kind = plain_type(column.type)
    if is_list(kind) or not is_time(kind):
        return column
    unit = "D" if pa.types.is_date32(kind) else "ms" if pa.types.is_date64(kind) else kind.unit
    plain = column.cast(kind).cast(pa.int32() if unit == "D" else pa.int64()).combine_chunks()
    is_null = plain.is_null().to_numpy(zero_copy_only=False)
    texts = np.datetime_as_string(plain.fill_null(0).to_numpy(zero_copy_only=False).astype(f"datetime64[{unit}]"))
    return pa.chunked_array([pa.array(texts.astype(object), pa.large_string(), mask=is_null)])


def _as_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list | tuple):
        return [_as_json(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, np.generic):
        return value.item()
    return value.isoformat() if isinstance(value, date | datetime) else value
