"""From the Arrow columns of a row group to arrays; every value is checked here, and nowhere after.

Shapes: R rows, D dense features, T tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.columns.jagged import Jagged, take, take_ids, to_offsets
from data.columns.numbers import LARGEST, Float32, read_numbers, scale_numbers, to_float32
from data.columns.texts import hash_texts
from data.columns.types import as_plain, is_list, problem_as_buckets, problem_as_ids, problem_as_number
from data.errors import DataError
from data.features import DenseFeature, Features, SparseFeature
from data.hashing import Int64, fold

Where = Callable[[int], str]
"""Describes row i of the table for a message: `row 12 of row group 3 of train/day_07.parquet`."""


_LARGEST = f"{LARGEST:.2g}, the largest float32"


@dataclass(frozen=True)
class Label:
    """A column to learn."""

    column: str
    binary: bool
    """Values other than 0 and 1 are an error."""


@dataclass(frozen=True)
class Columns:
    """What a dataset's columns are to become: everything that decoding needs to know."""

    features: Features
    table_rows: dict[str, int]
    """Rows of the embedding tables, by name."""
    labels: tuple[Label, ...]
    weight: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns to read, each once."""
        names = [*self.features.columns, *(label.column for label in self.labels)]
        if self.weight:
            names.append(self.weight)
        return list(dict.fromkeys(names))

    @property
    def ids(self) -> set[str]:
        """Those of them that are looked up by value; all others are read as numbers."""
        return {feature.column for feature in self.features.sparse if not feature.boundaries}


@dataclass(frozen=True)
class Rows:
    """Decoded rows."""

    ids: tuple[Jagged, ...]
    """One per sparse feature."""
    dense_RD: Float32
    """Each column contiguous, as those of `labels_RT` are."""
    labels_RT: Float32
    """NaN = missing"""
    weights_R: Float32
    row_ids_R: Int64
    """Number of each row in the whole dataset, as stored; -1 for rows that are in none."""
    not_finite_D: Int64
    """How many of the rows hold NaN or ±inf in each dense feature; they count as missing."""

    def __len__(self) -> int:
        return len(self.weights_R)

    @cached_property
    def addresses(self) -> Int64:
        """Of the arrays, for compiled code: values of each feature, offsets of each, then all others in order.

        0 in place of offsets: every row holds just one id.
        """
        values = [entry.values.ctypes.data for entry in self.ids]
        offsets = [0 if entry.is_single else entry.offsets.ctypes.data for entry in self.ids]
        others = (self.dense_RD.T, self.labels_RT.T, self.weights_R, self.row_ids_R)
        assert all(array.flags.c_contiguous for array in others)
        return np.array([*values, *offsets, *(array.ctypes.data for array in others), len(self)], np.int64)


def decode(table: pa.Table, columns: Columns, where: Where, chosen: Int64 | None = None) -> Rows:
    """Checked arrays of a table that holds `columns.names`; DataError names the row and column of a bad value.

    With `chosen` every row is checked, and those are returned in that order: each column is permuted while it lies in
    the processor's cache, where a row's place costs nothing.
    """
    table = table.combine_chunks()

    def column(name: str) -> pa.Array:
        chunked = as_plain(table[name])
        return chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)

    ids: list[Jagged] = []
    for feature in columns.features.sparse:
        num_table_rows = columns.table_rows[feature.table]
        found = _ids(column(feature.column), feature, num_table_rows, where)
        ids.append(found if chosen is None else take_ids(found, chosen))

    num_rows = table.num_rows if chosen is None else len(chosen)
    dense_DR = np.empty((len(columns.features.dense), num_rows), np.float32)
    not_finite_D = np.zeros(len(dense_DR), np.int64)

    for index, entry in enumerate(columns.features.dense):
        values, is_not_finite = _dense(column(entry.column), entry, where)
        _take(values, chosen, dense_DR[index])
        if is_not_finite is not None:
            not_finite_D[index] = np.count_nonzero(is_not_finite if chosen is None else is_not_finite[chosen])

    labels_TR = np.empty((len(columns.labels), num_rows), np.float32)
    for index, label in enumerate(columns.labels):
        _take(_label(column(label.column), label, where), chosen, labels_TR[index])

    weights_R = np.ones(num_rows, np.float32)
    if columns.weight:
        _take(_weights(column(columns.weight), columns.weight, where), chosen, weights_R)

    return Rows(
        ids=tuple(ids),
        dense_RD=dense_DR.T,
        labels_RT=labels_TR.T,
        weights_R=weights_R,
        row_ids_R=np.full(num_rows, -1, np.int64),
        not_finite_D=not_finite_D,
    )


def _take(values: Float32, chosen: Int64 | None, target: Float32) -> None:
    if chosen is None:
        target[:] = values
    else:
        take(values, chosen, target)


def check_type(name: str, kind: pa.DataType, columns: Columns) -> str | None:
    """What is wrong with a column of this type for the use that `columns` makes of it; None: nothing."""
    for feature in columns.features.sparse:
        if feature.column == name:
            problem = problem_as_buckets(kind) if feature.boundaries else problem_as_ids(kind, feature.hash)
            if problem:
                return problem

    dense = {feature.column for feature in columns.features.dense}
    labels = {label.column for label in columns.labels}
    return problem_as_number(kind) if name in dense | labels | {columns.weight} else None


def _dense(array: pa.Array, feature: DenseFeature, where: Where) -> tuple[Float32, NDArray[np.bool_] | None]:
    """The feature, 0 where it is missing, and which rows hold NaN or ±inf, if any do; they count as missing."""
    transform = feature.transform or "none"
    mean = feature.mean or 0.0
    scale = feature.scale or 1.0
    values = scale_numbers(array, transform, mean, scale)
    finite = np.isfinite(values)
    num_missing = len(values) - np.count_nonzero(finite)
    if num_missing == 0:
        return values, None
    if num_missing == array.null_count:  # a null is read as NaN: all others are finite
        return np.where(finite, values, np.float32(0)), None

    missing = ~np.isfinite(read_numbers(array))
    too_large = ~finite & ~missing
    if too_large.any():
        row = int(np.argmax(too_large))
        raise DataError(
            f"{where(row)}: column {feature.column!r} is {array[row]}, after transform, mean and scale more than "
            f"{_LARGEST}; write null where it is no value, or set transform = 'log1p' or a larger scale"
        )

    values = np.where(missing, np.float32(0), values)
    is_null = array.is_null().to_numpy(zero_copy_only=False)
    not_finite = missing & ~is_null
    return values, not_finite if not_finite.any() else None


def _label(array: pa.Array, label: Label, where: Where) -> Float32:
    numbers = read_numbers(array)
    values = to_float32(numbers)
    valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else True
    allowed = (numbers == 0) | (numbers == 1) if label.binary else np.isfinite(values)
    wrong = valid & ~allowed

    if np.any(wrong):
        row = int(np.argmax(wrong))
        rule = "a binary label is 0, 1 or null" if label.binary else "a label is a finite number or null"
        way_out = "; write null if it is not known" if np.isnan(numbers[row]) else _limit(numbers[row])
        raise DataError(f"{where(row)}: label {label.column!r} is {array[row]}; {rule}{way_out}")

    return values


def _weights(array: pa.Array, name: str, where: Where) -> Float32:
    numbers = read_numbers(array)
    values = to_float32(numbers)
    wrong = ~(np.isfinite(values) & (numbers >= 0))

    if np.any(wrong):
        row = int(np.argmax(wrong))
        rule = f"a weight is a number ≥ 0{_limit(numbers[row])}"
        raise DataError(f"{where(row)}: weight {name!r} is {array[row]}; {rule}")

    return values


def _limit(number: float) -> str:
    """What to add to a rule that a number breaks by its size alone."""
    return f", up to {_LARGEST}" if LARGEST < abs(number) < np.inf else ""


def _ids(array: pa.Array, feature: SparseFeature, rows: int, where: Where) -> Jagged:
    if feature.boundaries and pa.types.is_floating(array.type):
        null = pa.scalar(None, array.type)
        array = pc.if_else(pc.is_nan(array), null, array)  # NaN lies in no bucket, as null does

    values, offsets = _flatten(array)
    is_single = values is array
    if feature.boundaries:
        # float32 would round a timestamp; a float32 column has rounded, and its 0.7 is ≥ a boundary 0.7 rounded alike
        kind = values.type if pa.types.is_float32(values.type) else pa.float64()
        edges = np.asarray(feature.boundaries, kind.to_pandas_dtype())
        numbers = values.cast(kind, safe=False).to_numpy(zero_copy_only=False)
        return Jagged(np.searchsorted(edges, numbers, side="right"), offsets, is_single)

    numbers = _integers(values)
    if feature.hash:
        return Jagged(fold(numbers, rows), offsets, is_single)

    wrong = numbers.view(np.uint64) >= np.uint64(rows)
    if np.any(wrong):
        index = int(np.argmax(wrong))
        row = int(np.searchsorted(offsets, index, side="right")) - 1
        holds = f"{where(row)}: column {feature.column!r} holds id {values[index]}"
        limit = f"table {feature.table!r} has rows 0 to {rows - 1}"
        raise DataError(f"{holds}, but {limit}; give it more rows or set hash = true")

    return Jagged(numbers, offsets, is_single)


def _flatten(array: pa.Array) -> tuple[pa.Array, Int64]:
    """The ids of all rows end to end, and where each row's begin; a null row, or a null in a list, holds none.

    An array without nulls that holds one id a row is returned as it is.
    """
    if not is_list(array.type):
        if not array.null_count:
            return array, np.arange(len(array) + 1)
        lengths = array.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
        return array.drop_null(), to_offsets(lengths)

    list_lengths = pc.list_value_length(array).fill_null(0)
    lengths = list_lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    values = as_plain(array.flatten())
    if not values.null_count:
        return values, to_offsets(lengths)

    # Ids that are null are left out: a row is as long as it has others.
    is_valid = values.is_valid().to_numpy(zero_copy_only=False)
    row_of_value = np.repeat(np.arange(len(lengths)), lengths)
    lengths = np.bincount(row_of_value[is_valid], minlength=len(lengths))

    return values.drop_null(), to_offsets(lengths)


def _integers(values: pa.Array) -> Int64:
    """Ids as int64; text stands for the hash of its bytes."""
    if pa.types.is_integer(values.type):
        return np.ascontiguousarray(values.cast(pa.int64(), safe=False).to_numpy(zero_copy_only=False))
    if not pa.types.is_dictionary(values.type):
        return hash_texts(values)
    hashes = hash_texts(values.dictionary)
    return hashes[values.indices.to_numpy(zero_copy_only=False)]
