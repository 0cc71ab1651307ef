"""Rows that hold a value of which nothing can be made: an error that says the way out, or padding in their places."""

import decimal
import math
import pickle
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.columns.decode
from data.columns.bad_values import BadValueError, without_rows
from data.columns.decode import Columns, Rows, decode, decode_good
from data.columns.numbers import Label
from data.columns.vocabulary import Vocabulary
from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.features import DenseFeature, Features, SparseFeature
from data.order import OrderName
from data.pipeline.account import BadValues
from data.pipeline.block_rows import measure_block_rows
from data.reading import Reading
from data.statistics import measure
from data.stream import stream
from tests.data.test_bad_files import padded
from tests.data.test_stream import (
    NAMES,
    PADDING,
    assert_no_thread_is_left,
    rank_lanes,
    reading_of,
    set_value,
    take,
    write_files,
)

WAY_OUT = "; or start again with --set data.on_bad_value=skip, which gives such rows weight 0"


# ---- every kind

ID = SparseFeature(column="x", table="t")
HASHED = SparseFeature(column="x", table="t", hash=True)
WEIGHTED = SparseFeature(column="x", table="t", weights="w")
CROSS = SparseFeature(name="c", cross=("x", "y"), table="t", hash=True)
NUMBER = DenseFeature(column="x")
VECTOR = DenseFeature(column="x", size=2)
BINARY = Label("x", binary=True)
REAL = Label("x", binary=False)
D = decimal.Decimal
# What uses the columns, the columns, and (column, reason, rows) of those left out.
Kind = tuple[Any, dict[str, pa.Array], list[tuple[str, str, list[int]]]]
KINDS: dict[str, Kind] = {
    "id beyond the table": (ID, {"x": pa.array([1, 10, -1, None])}, [("x", "not in the table", [1, 2])]),
    "id in a list": (ID, {"x": pa.array([[1], [2, 11], [], [12, 13]])}, [("x", "not in the table", [1, 3])]),
    "id of 64 bits": (
        HASHED,
        {"x": pa.array([1, 2**63, 3, 2**64 - 1], pa.uint64())},
        [("x", "more than int64 holds", [1, 3])],
    ),
    "fraction and large float": (
        HASHED,
        {"x": pa.array([1.5, math.nan, 2.0**60, math.inf, 7.0])},
        [("x", "no whole number", [0, 3]), ("x", "more than double tells apart", [2])],
    ),
    "decimal": (HASHED, {"x": pa.array([D("1.5"), D("2.0"), None])}, [("x", "no whole number of 64 bits", [0])]),
    "part of a cross": (
        CROSS,
        {"x": pa.array([1, 2, 3]), "y": pa.array([None, 0.5, 2.0])},
        [("y", "no whole number", [1])],
    ),
    "weights": (
        WEIGHTED,
        {"x": pa.array([[1, 2], [3], [4], []]), "w": pa.array([[0.5], [math.inf], [1.0], None])},
        [("w", "not a weight for each id", [0]), ("w", "not a finite weight", [1])],
    ),
    "large number": (NUMBER, {"x": pa.array([1e39, 1.0, None, -1e300])}, [("x", "more than float32 holds", [0, 3])]),
    "length of a vector": (VECTOR, {"x": pa.array([[1.0], [1.0, 2.0], None, []])}, [("x", "not 2 numbers", [0, 3])]),
    "numbers of a vector": (
        VECTOR,
        {"x": pa.array([[1.0, 1e39], [1e39, math.nan], [1.0, 2.0]])},
        [("x", "more than float32 holds", [0, 1])],
    ),
    "binary label": (BINARY, {"x": pa.array([0.0, math.nan, None, 2.0, 1.0])}, [("x", "not 0, 1 or null", [1, 3])]),
    "label": (REAL, {"x": pa.array([math.inf, 1e39, 3.0, None])}, [("x", "not a finite number or null", [0, 1])]),
    "weight": ("x", {"x": pa.array([-1.0, None, math.nan, 0.0])}, [("x", "not a number ≥ 0", [0, 1, 2])]),
}


def columns_of(use: Any) -> Columns:
    sparse = (use,) if isinstance(use, SparseFeature) else ()
    dense = (use,) if isinstance(use, DenseFeature) else ()
    labels = (use,) if isinstance(use, Label) else ()
    weight = use if isinstance(use, str) else None
    return Columns(Features(sparse=sparse, dense=dense), {"t": 10}, labels, weight)


def assert_equal(found: Rows, expected: Rows) -> None:
    assert [[array is not None and array.tolist() for array in entry] for entry in found.ids] == [
        [array is not None and array.tolist() for array in entry] for entry in expected.ids
    ]
    for name in ("dense_RD", "labels_RT", "weights_R"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_bad_value_is_left_out_and_named(kind: str) -> None:
    use, arrays, expected = KINDS[kind]
    columns, table = columns_of(use), pa.table(arrays)
    chosen = np.arange(table.num_rows)[::-1].copy()
    with pytest.raises(BadValueError, match=r"^row \d: "):
        decode(table, columns, lambda row: f"row {row}", chosen)

    rows = decode_good(table, columns, lambda row: f"row {row}", chosen)
    found = [(entry.column, entry.reason, sorted(entry.rows.tolist())) for entry in rows.bad]
    assert found == expected
    for entry in rows.bad:
        assert (chosen[entry.places] == entry.rows).all()
        assert entry.message.startswith(f"row {min(entry.rows)}: ")

    bad = [row for _, _, of_reason in expected for row in of_reason]
    good = [row for row in chosen.tolist() if row not in bad]
    assert_equal(rows, decode(table.take(pa.array(good)), columns, str))


def test_an_unknown_id_of_a_vocabulary() -> None:
    columns = replace(columns_of(ID), vocabularies={"t": Vocabulary(pa.array([5, 7]), 0)})
    rows = decode_good(pa.table({"x": [5, 6, 7]}), columns, str, np.arange(3))
    assert [(entry.column, entry.reason, entry.rows.tolist()) for entry in rows.bad] == [
        ("x", "not in the vocabulary", [1])
    ]


def test_a_row_is_counted_once_and_only_where_it_was_chosen() -> None:
    columns = Columns(Features(sparse=(ID,), dense=(DenseFeature(column="y"),)), {"t": 10}, (Label("z", True),), "z")
    table = pa.table({"x": [1, 10, 2, 10], "y": [1e39, 1e39, math.nan, 0], "z": [2, 2, 1, 0]})
    rows = decode_good(table, columns, str, np.array([2, 1, 0]))
    assert [(entry.column, entry.rows.tolist(), entry.places.tolist()) for entry in rows.bad] == [
        ("x", [1], [1]),
        ("y", [0], [2]),
    ]
    assert rows.bad_places.tolist() == [1, 2]
    assert [places.tolist() for places in rows.not_finite] == [[0]]


@pytest.mark.parametrize("kind", [pa.string_view(), pa.list_(pa.string_view()), pa.dictionary(pa.int8(), pa.string())])
def test_rows_of_any_type_can_be_left_out(kind: pa.DataType) -> None:
    values = [["a"], ["b"], ["c"], ["d"]] if pa.types.is_list(kind) else list("abcd")
    table = pa.table({"x": pa.array(values, pa.list_(pa.string()) if pa.types.is_list(kind) else None).cast(kind)})
    assert without_rows(table, np.array([True, False, False, True]))["x"].to_pylist() == values[1:3]
    assert without_rows(table, np.ones(4, np.bool_)).num_rows == 0


def test_attempts_do_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def counted(*arguments: Any) -> Rows:
        attempts.append(1)
        return decode(*arguments)

    monkeypatch.setattr(data.columns.decode, "decode", counted)
    vector = DenseFeature(column="v", size=64)
    columns = Columns(Features(sparse=(ID,), dense=(vector,)), {"t": 10}, (Label("y", binary=True),))
    numbers = np.where(np.eye(64, dtype=bool), 1e39, 0.0)
    table = pa.table({"x": [10] * 64 + [1] * 128, "v": [*numbers, *numbers, *(0 * numbers)], "y": [7] * 192})
    rows = decode_good(table, columns, str, np.arange(192))
    assert len(rows) == 0
    assert [(entry.column, len(entry.rows)) for entry in rows.bad] == [("x", 64), ("v", 64), ("y", 64)]
    assert len(attempts) == 4


def test_the_error_travels_between_ranks() -> None:
    error = BadValueError("row 3: bad", "x", "bad", np.array([True]))
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, DataError)
    assert str(copy) == "row 3: bad"


# ---- through the stream


@pytest.mark.parametrize("on_bad_value", ["fail", None])
def test_the_error_says_the_way_out_where_there_is_one(tmp_path: Path, on_bad_value: Any) -> None:
    write_files(tmp_path, set_value(29, "click", 2))
    reading = reading_of(read_manifest(str(tmp_path), cache=None), on_bad_value=on_bad_value)
    with pytest.raises(DataError, match=r"row 4 of row group 3 of .*: label 'click' is 2; ") as told:
        take(reading, range(4), 0, 12)
    assert str(told.value).endswith(WAY_OUT if on_bad_value else "a binary label is 0, 1 or null")
    assert_no_thread_is_left()


@pytest.mark.parametrize("block_rows", [None, 4])
@pytest.mark.parametrize("order", NAMES)
def test_bad_rows_are_padding_and_all_others_stay_in_place(
    tmp_path: Path, order: OrderName, block_rows: int | None
) -> None:
    bad = {3, 29, 30, 41}

    def change(row: dict[str, Any]) -> None:
        if row["number"] in bad:
            row["watch"] = math.inf

    usual = reading_of(
        read_manifest(str(write_files(tmp_path / "good")), cache=None),
        order=order,
        block_rows=block_rows,
        on_bad_value="skip",
    )
    expected = padded(take(usual, range(4), 0, 14), bad)
    reading = replace(usual, manifest=read_manifest(str(write_files(tmp_path / "bad", change)), cache=None))
    assert take(reading, range(4), 0, 14) == expected
    ranks = [take(reading, rank_lanes(reading, rank, 2), 0, 14) for rank in range(2)]
    assert [left + right for left, right in zip(*ranks, strict=True)] == expected
    assert take(reading, range(4), 5 * 8, 4, threads=1) == expected[5:9]


def test_rows_that_are_all_bad_are_all_padding(tmp_path: Path) -> None:
    write_files(tmp_path, lambda row: row.update(weight=-1))
    reading = reading_of(read_manifest(str(tmp_path), cache=None), on_bad_value="skip")
    assert take(reading, range(4), 0, 14) == [[PADDING] * 8] * 14
    assert measure_block_rows(reading, 10**9, 4) > 0
    assert measure(reading).labels[0].count == 0


# ---- counted

ROWS_PER_GROUP = 100_000
SHAPES = {"one in a million": 1_000_000, "ten in a row group": 300_000, "all": 200_000}


def write_log(folder: Path, shape: str) -> dict[str, np.ndarray]:
    """Ids, labels and numbers, with bad rows of the shape; each is bad in one column or in two."""
    draw = np.random.default_rng(5)
    num_rows = SHAPES[shape]
    is_bad = np.zeros(num_rows, np.bool_)
    for begin in range(0, num_rows, ROWS_PER_GROUP):
        is_bad[begin + draw.choice(ROWS_PER_GROUP, 10, replace=False)] = shape == "ten in a row group"
    is_bad |= shape == "all"
    is_bad[654_321 % num_rows] = True

    which = np.where(is_bad, draw.integers(1, 4, num_rows), 0)
    values = {
        "user": np.where(which & 1, 99, draw.integers(0, 50, num_rows)),
        "click": np.where(which & 2, 7, draw.integers(0, 2, num_rows)).astype(np.int8),
        "age": np.where(draw.random(num_rows) < 0.001, np.nan, draw.random(num_rows)).astype(np.float32),
    }
    folder.mkdir()
    pq.write_table(pa.table(values), folder / "a.parquet", row_group_size=ROWS_PER_GROUP)
    return values


def log_reading(folder: Path, lanes: int) -> Reading:
    features = Features(
        sparse=(SparseFeature(column="user", table="user"),), dense=(DenseFeature(column="age", mean=0.0, scale=1.0),)
    )
    columns = Columns(features, {"user": 50}, (Label("click", binary=True),))
    return Reading(
        read_manifest(str(folder), cache=None),
        columns,
        1000,
        lanes,
        "shuffled",
        17,
        on_bad_value="skip",
        block_rows=30_000,
    )


def counts_until(entries: list[BadValues], samples: int) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        counts[entry.column, entry.reason] += int((entry.samples_N < samples).sum())
    return +counts


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_account_equals_an_independent_count(tmp_path: Path, shape: str, lanes: int) -> None:
    values = write_log(tmp_path / "log", shape)
    is_bad_user, is_bad_click = values["user"] == 99, values["click"] == 7
    is_good = ~is_bad_user & ~is_bad_click
    reading = log_reading(tmp_path / "log", lanes)

    batches = stream(reading, range(lanes), 0, threads=lanes)
    taken = list(islice(batches, reading.batches_per_epoch))
    batches.close()
    account = batches.account
    of_first_pass = [entry for entry in account.bad_values if entry.epoch == 0]
    end = len(taken) * 1000
    assert counts_until(of_first_pass, end) == +Counter(
        {
            ("user", "not in the table"): int(is_bad_user.sum()),
            ("click", "not 0, 1 or null"): int((is_bad_click & ~is_bad_user).sum()),
        }
    )
    rows = np.concatenate([entry.row_group * ROWS_PER_GROUP + entry.rows_N for entry in of_first_pass])
    assert np.array_equal(np.sort(rows), np.flatnonzero(~is_good))
    handed_out = np.concatenate([batch.row_ids_B.numpy() for batch in taken])
    assert np.array_equal(np.sort(handed_out[handed_out >= 0]), np.flatnonzero(is_good))
    assert account.not_finite_until(end).tolist() == [int(np.isnan(values["age"][is_good]).sum())]

    for index, batch in enumerate(taken[:20]):  # each row is counted with its own batch
        of_batch = sum(int((entry.samples_N == index * 1000).sum()) for entry in of_first_pass)
        assert of_batch == int((batch.row_ids_B < 0).sum()) == int((batch.weights_B == 0).sum())
        assert not batch.label_weights_BT[batch.row_ids_B < 0].any()
        assert not batch.sparse.lengths()[batch.row_ids_B < 0].any()


def test_numbers_that_are_not_finite_are_counted_once_by_batch(tmp_path: Path) -> None:
    values = write_log(tmp_path / "log", "ten in a row group")
    reading = log_reading(tmp_path / "log", 2)
    batches = stream(reading, range(2), 0)
    is_nan = np.isnan(values["age"])
    expected = 0
    for index, batch in enumerate(islice(batches, 100), start=1):
        row_ids = batch.row_ids_B.numpy()
        expected += int(is_nan[row_ids[row_ids >= 0]].sum())
        if index % 9 == 0:
            assert batches.account.not_finite_until(1000 * index).tolist() == [expected]
            expected = 0
    batches.close()


def test_statistics_leave_bad_rows_out(tmp_path: Path) -> None:
    columns = Columns(Features(dense=(NUMBER,)), {}, (Label("y", binary=True),), "w")
    table = pa.table({"x": [1.0, 1e300, 3.0, 100.0, 100.0], "y": [1, 1, 0, 9, 1], "w": [1.0, 1.0, 1.0, 1.0, -1.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    reading = Reading(read_manifest(str(tmp_path), cache=None), columns, 1, 1, "stored", 0, on_bad_value="skip")
    found = measure(reading)
    assert found.dense[0]["none"].mean == 2.0
    assert found.labels[0].mean == 0.5
    with pytest.raises(DataError, match=r"row 1 of row group 0 of .*: column 'x' is 1e.300, ") as told:
        measure(replace(reading, on_bad_value="fail"))
    assert str(told.value).endswith(WAY_OUT)
