"""Columns of ids → the rows of a block's ids, checked and in the order in which they are handed out.

Shapes: N rows of the column, R chosen rows.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.columns.texts import hash_texts
from data.columns.types import Where, as_plain, is_list
from data.compiled import compiled
from data.errors import DataError
from data.features import SparseFeature
from data.hashing import Int64, mix

Integers = Int64 | NDArray[np.int32]


class Jagged(NamedTuple):
    """The ids of one feature: row i holds values[offsets[i] : offsets[i + 1]]."""

    values: Int64
    offsets: Int64 | None
    """[R + 1]; None: every row holds just one id."""


def decode_ids(array: pa.Array, feature: SparseFeature, table_rows: int, chosen: Int64, where: Where) -> Jagged:
    """The ids of the chosen rows, in that order; DataError names a row whose id is not in the table."""
    if feature.boundaries and pa.types.is_floating(array.type):
        null = pa.scalar(None, array.type)
        array = pc.if_else(pc.is_nan(array), null, array)  # NaN lies in no bucket, as null does

    values, offsets = _flatten(array)
    numbers = _buckets(values, feature.boundaries) if feature.boundaries else _integers(values)
    if offsets is None:
        found = Jagged(np.empty(len(chosen), np.int64), None)
        is_right = _take_ids(numbers, chosen, feature.hash, np.uint64(table_rows), found.values)
    else:
        new_offsets = np.empty(len(chosen) + 1, np.int64)
        _take_offsets(offsets, chosen, new_offsets)
        found = Jagged(np.empty(new_offsets[-1], np.int64), new_offsets)
        is_right = _take_lists(numbers, offsets, chosen, feature.hash, np.uint64(table_rows), new_offsets, found.values)
    if not is_right:
        row, place = _first_wrong(numbers, offsets, chosen, table_rows)
        holds = f"{where(row)}: column {feature.column!r} holds id {values[place]}"
        limit = f"table {feature.table!r} has rows 0 to {table_rows - 1}"
        raise DataError(f"{holds}, but {limit}; give it more rows or set hash = true")
    return found


def _flatten(array: pa.Array) -> tuple[pa.Array, Int64 | None]:
    """The ids of all rows end to end, and where each row's begin [N + 1]; a null row, or a null in a list, holds none.

    Without the offsets if the column holds one id a row.
    """
    if not is_list(array.type):
        if not array.null_count:
            return array, None
        lengths = array.is_valid().to_numpy(zero_copy_only=False)
        return array.drop_null(), _to_offsets(lengths)

    has_offsets = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    if has_offsets and not array.null_count:
        values = as_plain(array.values)
        if not values.null_count:
            return values, array.offsets.to_numpy().astype(np.int64)

    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    values = as_plain(array.flatten())
    if not values.null_count:
        return values, _to_offsets(lengths)

    # Ids that are null are left out: a row is as long as it has others.
    is_valid = values.is_valid().to_numpy(zero_copy_only=False)
    row_of_value = np.repeat(np.arange(len(lengths)), lengths)
    lengths = np.bincount(row_of_value[is_valid], minlength=len(lengths))
    return values.drop_null(), _to_offsets(lengths)


def _to_offsets(lengths: NDArray[np.integer | np.bool_]) -> Int64:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _buckets(values: pa.Array, boundaries: tuple[float, ...]) -> Int64:
    # float32 would round a timestamp; a float32 column has rounded, and its 0.7 is ≥ a boundary 0.7 rounded alike
    kind = values.type if pa.types.is_float32(values.type) else pa.float64()
    edges = np.asarray(boundaries, kind.to_pandas_dtype())
    numbers = values.cast(kind, safe=False).to_numpy(zero_copy_only=False)
    return np.searchsorted(edges, numbers, side="right")


def _integers(values: pa.Array) -> Integers:
    """Ids as integers; text stands for the hash of its bytes."""
    if pa.types.is_int32(values.type):
        return values.to_numpy()
    if pa.types.is_integer(values.type):
        return values.cast(pa.int64(), safe=False).to_numpy()
    if not pa.types.is_dictionary(values.type):
        return hash_texts(values)
    hashes = hash_texts(values.dictionary)
    return hashes[values.indices.to_numpy(zero_copy_only=False)]


def _first_wrong(numbers: Integers, offsets: Int64 | None, chosen: Int64, table_rows: int) -> tuple[int, int]:
    """The first of the chosen rows, as stored, that holds an id which is not in the table, and the place of that id."""
    places = np.flatnonzero((numbers < 0) | (numbers >= table_rows))
    rows = places if offsets is None else np.searchsorted(offsets, places, side="right") - 1
    first = np.flatnonzero(np.isin(rows, chosen))[0]
    return int(rows[first]), int(places[first])


@compiled
def _take_ids(numbers: Integers, chosen: Int64, is_hashed: bool, table_rows: np.uint64, target: Int64) -> bool:
    """Writes the table rows of the chosen ids to `target`; False if one is not in the table."""
    is_right = True
    for index in range(len(chosen)):
        number = np.uint64(np.int64(numbers[np.uint64(chosen[index])]))  # an unsigned place is not checked for its sign
        if is_hashed:
            number = mix(number) % table_rows
        is_right &= bool(number < table_rows)
        target[index] = number
    return is_right


@compiled
def _take_offsets(offsets: Int64, chosen: Int64, target: Int64) -> None:
    target[0] = 0
    for index in range(len(chosen)):
        row = np.uint64(chosen[index])
        target[index + 1] = target[index] + offsets[row + np.uint64(1)] - offsets[row]


@compiled
def _take_lists(  # noqa: PLR0913 - as `_take_ids`, with where lists begin and go
    numbers: Integers,
    offsets: Int64,
    chosen: Int64,
    is_hashed: bool,
    table_rows: np.uint64,
    new_offsets: Int64,
    target: Int64,
) -> bool:
    is_right = True
    for index in range(len(chosen)):
        begin = offsets[np.uint64(chosen[index])]
        new_begin = new_offsets[index]
        for step in range(new_offsets[index + 1] - new_begin):
            number = np.uint64(np.int64(numbers[np.uint64(begin + step)]))
            if is_hashed:
                number = mix(number) % table_rows
            is_right &= bool(number < table_rows)
            target[np.uint64(new_begin + step)] = number
    return is_right
