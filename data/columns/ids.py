"""Columns of ids → the rows of a block's ids, checked and in the order in which they are handed out.

Shapes: N rows of the column, R chosen rows.
"""

from typing import NamedTuple, TypeVar

import numpy as np

from data.columns.bad_values import BadValueError, NotAnIdError
from data.columns.flat import Flat, Integers, flatten, to_buckets, to_integers
from data.columns.numbers import Column, Float32
from data.columns.types import Where
from data.columns.vocabulary import Vocabulary
from data.compiled import compiled
from data.features import SparseFeature
from data.hashing import Int64, mix

Values = TypeVar("Values", Integers, Float32)

_STEP = 8
"""Ids that are copied at once."""


class Jagged(NamedTuple):
    """The ids of one feature: row i holds values[offsets[i] : offsets[i + 1]]."""

    values: Integers
    """Of the `id_type` of their table."""
    offsets: Int64 | None
    """[R + 1]; None: every row holds just one id."""
    weights: Float32 | None = None
    """Of each id; None: 1."""


def id_type(table_rows: int) -> type[np.int32 | np.int64]:
    """Of decoded ids: the narrower, the less there is to copy."""
    return np.int32 if table_rows <= 1 << 31 else np.int64


class Table(NamedTuple):
    """Where the ids of a feature are looked up."""

    rows: int
    vocabulary: Vocabulary | None = None
    """Which row each id has, where it is not the row's number or its hash."""


def decode_ids(column: Column, feature: SparseFeature, table: Table, chosen: Int64, where: Where) -> Jagged:
    """The ids of the chosen rows, in that order; BadValueError names a row, of all, whose id is not in the table."""
    flat = flatten(column, feature, where)
    try:
        numbers = to_buckets(flat.values, feature.edges) if feature.is_bucketed else to_integers(flat.values)
    except NotAnIdError as error:
        is_bad_N = flat.rows_of(error.is_bad_V)
        message = f"{where(int(np.argmax(is_bad_N)))}: column {feature.column!r} holds {error}"
        raise BadValueError(message, feature.column, error.reason, is_bad_N) from error

    found: Integers = np.empty(len(numbers), id_type(table.rows))
    size = np.uint64(table.rows)
    if table.vocabulary is not None:
        is_right = table.vocabulary.find(numbers, found)
    else:
        is_right = _to_table_rows(numbers, feature.is_hashed, seed_bits(feature.seed), size, found)
    if not is_right:
        raise _not_in_table(feature, table, flat, numbers, found, where)

    if feature.hashes > 1:
        flat, found = _hash_again(flat, numbers, feature, size, found)
    if flat.offsets is None:
        target: Integers = np.empty(len(chosen), found.dtype)
        _take(found, chosen, target)
        return Jagged(target, None)

    begins, ends = flat.offsets[:-1], flat.offsets[1:]
    if feature.first:
        ends = np.minimum(ends, begins + feature.first * feature.hashes)
    if feature.last:
        begins = np.maximum(begins, ends - feature.last * feature.hashes)
    offsets = np.empty(len(chosen) + 1, np.int64)
    _take_offsets(begins, ends, chosen, offsets)
    values = _taken_lists(found, begins, chosen, offsets)
    weights = None if flat.weights is None else _taken_lists(flat.weights, begins, chosen, offsets)
    return Jagged(values, offsets, weights)


def seed_bits(seed: int) -> np.uint64:
    """What an id is changed by before it is hashed; nothing for seed 0."""
    return np.uint64(mix(np.uint64(seed))) if seed else np.uint64(0)


def _not_in_table(
    feature: SparseFeature, table: Table, flat: Flat, numbers: Integers, found: Integers, where: Where
) -> BadValueError:
    """Names the first row with an id that has no row of the table."""
    if table.vocabulary is None:
        is_bad_V = (numbers < 0) | (numbers >= table.rows)
        reason = "not in the table"
        limit = f"table {feature.table!r} has rows 0 to {table.rows - 1}; give it more rows or set hash = true"
    else:
        is_bad_V = found < 0
        reason = "not in the vocabulary"
        limit = f"the vocabulary of table {feature.table!r} has not; add it, or set unknown_rows"
    is_bad_N = flat.rows_of(is_bad_V)
    value = flat.values[int(np.argmax(is_bad_V))]
    message = f"{where(int(np.argmax(is_bad_N)))}: column {feature.column!r} holds id {value}, but {limit}"
    return BadValueError(message, feature.column, reason, is_bad_N)


def _hash_again(
    flat: Flat, numbers: Integers, feature: SparseFeature, size: np.uint64, first: Integers
) -> tuple[Flat, Integers]:
    """Each id's rows by all of its hashes, beside one another."""
    count = feature.hashes
    found = np.empty((len(numbers), count), first.dtype)
    found[:, 0] = first
    for index in range(1, count):
        again = np.empty_like(first)
        _to_table_rows(numbers, True, seed_bits(feature.seed + index), size, again)
        found[:, index] = again
    offsets = np.arange(len(numbers) + 1) if flat.offsets is None else flat.offsets
    weights = None if flat.weights is None else np.repeat(flat.weights, count)
    return flat._replace(offsets=offsets * count, weights=weights), found.reshape(-1)


def _taken_lists(values: Values, begins: Int64, chosen: Int64, offsets: Int64) -> Values:
    target: Values = np.empty(offsets[-1] + _STEP, values.dtype)
    _take_lists(values, begins, chosen, offsets, target)
    return target[: offsets[-1]]


@compiled
def _to_table_rows(
    numbers: Integers, is_hashed: bool, seed_bits: np.uint64, table_rows: np.uint64, target: Integers
) -> bool:
    """Writes the table rows of all ids to `target`; False if one is not in the table."""
    is_right = True
    for index in range(len(numbers)):
        number = np.uint64(np.int64(numbers[index]))
        if is_hashed:
            number = mix(number ^ seed_bits) % table_rows
        is_right &= bool(number < table_rows)
        target[index] = number
    return is_right


@compiled
def _take(values: Integers, chosen: Int64, target: Integers) -> None:
    for index in range(len(chosen)):
        target[index] = values[np.uint64(chosen[index])]  # an unsigned place is not checked for its sign


@compiled
def _take_offsets(begins: Int64, ends: Int64, chosen: Int64, target: Int64) -> None:
    target[0] = 0
    for index in range(len(chosen)):
        row = np.uint64(chosen[index])
        target[index + 1] = target[index] + ends[row] - begins[row]


@compiled
def _take_lists(values: Values, begins: Int64, chosen: Int64, new_offsets: Int64, target: Values) -> None:
    """Copies _STEP ids at a time, whatever follows them: the next list overwrites it, and the end has room for it.

    How often a loop runs that copies id by id cannot be predicted, which costs more than the copy.
    """
    last = len(values) - _STEP
    for index in range(len(chosen)):
        begin = begins[np.uint64(chosen[index])]
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
