"""Times of Parquet's old type INT96: as written as far as microseconds reach, and refused beyond."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.pipeline.blocks import BlockReader
from data.pipeline.row_groups import read_row_group, rows_of_group

LAST = (2**63 - 1) // 1000
"""The last millisecond that microseconds reach."""


def write(path: Path, milliseconds: list[int | None]) -> None:
    times = pa.array(milliseconds, pa.timestamp("ms"))
    inside = pa.array([{"at": [value, None]} for value in milliseconds], pa.struct({"at": pa.list_(times.type)}))
    table = pa.table({"at": times, "in": inside, "id": range(len(milliseconds))})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)


def test_times_reach_beyond_2262(tmp_path: Path) -> None:
    """In nanoseconds, as Arrow reads them by itself, the year 9999 would be 1816."""
    late = [253370764800000, None, LAST, -62135596800000]
    write(tmp_path / "a.parquet", late)
    table = read_row_group(read_manifest(str(tmp_path), cache=None), 0, ["at", "in.at"])
    assert table["at"][0].as_py() == datetime(9999, 1, 1)
    assert table["at"].cast(pa.int64()).to_pylist() == [None if value is None else value * 1000 for value in late]
    assert table["in.at"].combine_chunks().flatten().cast(pa.int64())[4].as_py() == LAST * 1000


@pytest.mark.parametrize("value", [LAST + 1, 3 * 10**17])
@pytest.mark.parametrize("name", ["at", "in.at"])
def test_times_beyond_microseconds_are_refused(tmp_path: Path, name: str, value: int) -> None:
    write(tmp_path / "a.parquet", [0, None, value])
    manifest = read_manifest(str(tmp_path), cache=None)
    for begin, most in ((0, 3), (0, 2)):
        with pytest.raises(
            DataError, match=r"^row group 0 of .*a\.parquet: column '\w+' holds a time more than 292,277"
        ):
            BlockReader(manifest, [name]).read(rows_of_group(manifest, 0, begin, most))
    assert read_row_group(manifest, 0, ["id"])["id"].to_pylist() == [0, 1, 2], "which nobody asked for"
