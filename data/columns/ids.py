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

Integers = NDArray[np.int32 | np.int64]
_STEP = 8
"""Ids that are copied at once."""


class Jagged(NamedTuple):
    """The ids of one feature: row i holds values[offsets[i] : offsets[i + 1]]."""

    values: Integers
    """Of the `id_type` of their table."""
    offsets: Int64 | None
    """[R + 1]; None: every row holds just one id."""


def id_type(table_rows: int) -> type[np.int32 | np.int64]:
    """Of decoded ids: the narrower, the less there is to copy."""
    return np.int32 if table_rows <= 1 << 31 else np.int64


def decode_ids(array: pa.Array, feature: SparseFeature, table_rows: int, chosen: Int64, where: Where) -> Jagged:
    """The ids of the chosen rows, in that order; DataError names a row, of all, whose id is not in the table."""
    if feature.boundaries and pa.types.is_floating(array.type):
        null = pa.scalar(None, array.type)
        array = pc.if_else(pc.is_nan(array), null, array)  # NaN lies in no bucket, as null does

    values, offsets = _flatten(array)
    numbers = _buckets(values, feature.boundaries) if feature.boundaries else _integers(values)
    found: Integers = np.empty(len(numbers), id_type(table_rows))
    is_right = _to_table_rows(numbers, feature.hash, np.uint64(table_rows), found)
    if not is_right:
        row, place = _first_wrong(numbers, offsets, table_rows)
        holds = f"{where(row)}: column {feature.column!r} holds id {values[place]}"
        limit = f"table {feature.table!r} has rows 0 to {table_rows - 1}"
        raise DataError(f"{holds}, but {limit}; give it more rows or set hash = true")

    if offsets is None:
        target: Integers = np.empty(len(chosen), found.dtype)
        _take(found, chosen, target)
        return Jagged(target, None)
    new_offsets = np.empty(len(chosen) + 1, np.int64)
    _take_offsets(offsets, chosen, new_offsets)
    target = np.empty(new_offsets[-1] + _STEP, found.dtype)
    _take_lists(found, offsets, chosen, new_offsets, target)
    return Jagged(target[: new_offsets[-1]], new_offsets)


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
        values = as_plain(array.flatten())
        if not values.null_count:
            offsets = array.offsets.to_numpy().astype(np.int64)
            return values, offsets - offsets[0]

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


def _first_wrong(numbers: Integers, offsets: Int64 | None, table_rows: int) -> tuple[int, int]:
    """The first row, as stored, that holds an id which is not in the table, and the place of that id."""
    place = int(np.argmax((numbers < 0) | (numbers >= table_rows)))
    row = place if offsets is None else int(np.searchsorted(offsets, place, side="right")) - 1
    return row, place


@compiled
def _to_table_rows(numbers: Integers, is_hashed: bool, table_rows: np.uint64, target: Integers) -> bool:
    """Writes the table rows of all ids to `target`; False if one is not in the table."""
    is_right = True
    for index in range(len(numbers)):
        number = np.uint64(np.int64(numbers[index]))
        if is_hashed:
            number = mix(number) % table_rows
        is_right &= bool(number < table_rows)
        target[index] = number
    return is_right


@compiled
def _take(values: Integers, chosen: Int64, target: Integers) -> None:
    for index in range(len(chosen)):
        target[index] = values[np.uint64(chosen[index])]  # an unsigned place is not checked for its sign


@compiled
def _take_offsets(offsets: Int64, chosen: Int64, target: Int64) -> None:
    target[0] = 0
    for index in range(len(chosen)):
        row = np.uint64(chosen[index])
        target[index + 1] = target[index] + offsets[row + np.uint64(1)] - offsets[row]


@compiled
def _take_lists(values: Integers, offsets: Int64, chosen: Int64, new_offsets: Int64, target: Integers) -> None:
    """Copies _STEP ids at a time, whatever follows them: the next list overwrites it, and the end has room for it.

    How often a loop runs that copies id by id cannot be predicted, which costs more than the copy.
    """
    last = len(values) - _STEP
    for index in range(len(chosen)):
        begin = offsets[np.uint64(chosen[index])]
        new_begin = new_offsets[index]
        length = new_offsets[index + 1] - new_begin
        copied = 0
        while copied < length and begin + copied <= last:
            source = np.uint64(begin + copied)
            place = np.uint64(new_begin + copied)
            for step in range(_STEP):
                target[place + np.uint64(step)] = values[source + np.uint64(step)]
            copied += _STEP
        for step in range(copied, length):
            target[np.uint64(new_begin + step)] = values[np.uint64(begin + step)]
