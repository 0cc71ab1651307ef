"""Vocabularies are those of a counter, and of files that anyone may have written."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.profile.column import ColumnProfile
from data.profile.counts import ValueCounts
from data.profile.vocabularies import count_ids, frequent_ids, read_vocabulary, write_vocabulary

VALUES = st.lists(st.integers(-5, 5) | st.integers(-(2**62), 2**62), max_size=80)


def column_of(values: list[Any], kind: pa.DataType) -> pa.Table:
    counts = ValueCounts()
    counts.add(pa.array(values, kind))
    return counts.table


@given(one=VALUES, other=VALUES, most=st.integers(1, 20), min_count=st.integers(1, 3))
def test_ids_of_two_columns_are_counted_together(one: list[int], other: list[int], most: int, min_count: int) -> None:
    columns = {"one": column_of(one, pa.int64()), "other": column_of(other, pa.int64())}
    counts = Counter(one + other)
    expected = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    counted = count_ids(columns)
    assert list(zip(counted["value"].to_pylist(), counted["count"].to_pylist(), strict=True)) == expected
    kept = [value for value, count in expected if count >= min_count][:most]
    assert frequent_ids(counted, most, min_count).to_pylist() == kept


def test_text_beside_bytes() -> None:
    columns = {"one": column_of(["a", "b"], pa.string()), "other": column_of([b"a", b"\xff"], pa.binary())}
    assert count_ids(columns).to_pylist() == [
        {"value": b"a", "count": 2},
        {"value": b"b", "count": 1},
        {"value": b"\xff", "count": 1},
    ]


def test_values_that_are_no_ids_can_be_left_out() -> None:
    columns = {"one": column_of([1.5, 2.0, 2.0**60, 3.0, 3.0], pa.float64()), "other": column_of([2], pa.int64())}
    with pytest.raises(DataError, match="column 'one' holds"):
        count_ids(columns)
    assert count_ids(columns, skip_bad=True).to_pylist() == [{"value": 2, "count": 2}, {"value": 3, "count": 2}]


def test_text_beside_numbers() -> None:
    with pytest.raises(DataError, match="columns 'one', 'other' hold text and numbers; write their ids alike"):
        count_ids({"one": column_of(["a"], pa.string()), "other": column_of([1], pa.int64())})


def test_values_that_hardly_repeat_are_kept_where_all_are_wanted() -> None:
    texts = [f"id {number}" for number in range(150_000)]
    for keeps_all, kept in ((False, 0), (True, len(texts))):
        profile = ColumnProfile("text", is_list=False, keeps_all=keeps_all)
        for begin in range(0, len(texts), 10_000):
            profile.add(pa.array(texts[begin : begin + 10_000]), 0)
        assert profile.counts is not None
        assert profile.counts.table.num_rows == kept


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["b", "a"]),
        pa.array([b"b", b"\xff"]),
        pa.array(["b", "a"]).dictionary_encode(),
        pa.array([5, 3], pa.uint16()),
        pa.array([5.0, 3.0]),
        pa.array([True, False]),
    ],
)
def test_files_of_any_writer(tmp_path: Path, values: pa.Array) -> None:
    pq.write_table(pa.table({"rank": [1, 2], "value": values}), tmp_path / "v.parquet")
    vocabulary = read_vocabulary(str(tmp_path / "v.parquet"), 1)
    assert vocabulary.values.to_pylist() == values.to_pylist()
    write_vocabulary(vocabulary, tmp_path / "again.parquet")
    assert read_vocabulary(str(tmp_path / "again.parquet"), 1).digest == vocabulary.digest


BAD_FILES: list[tuple[dict[str, Any] | None, str]] = [
    (None, "not a Parquet file that can be read"),
    ({"values": ["a"]}, r"no column 'value', which holds the ids; it has \['values'\]"),
    ({"value": ["a", None]}, "has 2 rows, 1 of them null; write ids"),
    ({"value": pa.array([], pa.string())}, "has 0 rows, 0 of them null; write ids"),
    ({"value": ["a", "b", "a"]}, "holds 'a' more than once; an id has one row"),
    ({"value": [1.5]}, "holds 1.5, which is no whole number"),
    ({"value": [["a"]]}, "column 'value' is a list of them; write a number or text a row"),
    ({"value": [{"a": 1}]}, "column 'value' is struct<a: int64>, but an id is a whole number"),
    ({"value": pa.array([2**63], pa.uint64())}, "holds id 9223372036854775808, more than int64 holds"),
]


@pytest.mark.parametrize(("columns", "message"), BAD_FILES)
def test_bad_files(tmp_path: Path, columns: dict[str, Any] | None, message: str) -> None:
    path = tmp_path / "v.parquet"
    if columns is None:
        path.write_bytes(b"value\na\n")
    else:
        pq.write_table(pa.table(columns), path)
    with pytest.raises(DataError, match=message) as error:
        read_vocabulary(str(path), 1)
    assert str(error.value).startswith(f"vocabulary {path}: ")
    assert "\n" not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a Parquet file that can be read"):
        read_vocabulary(str(tmp_path / "none.parquet"), 1)
