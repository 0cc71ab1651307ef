"""Ids that have a row of a table to themselves, whatever they are; all others share the first rows.

    the i-th id of the vocabulary   row unknown_rows + i
    any other                       row mix(id) % unknown_rows

Ids are 64-bit integers here; text stands for the hash of its bytes.

Shapes: N ids of the vocabulary, V ids to look up, S places of the hash table.
"""

import hashlib
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data.columns.bad_values import NotAnIdError
from data.columns.flat import Integers, to_integers
from data.compiled import compiled
from data.errors import DataError
from data.hashing import Int64, mix

_EMPTY = -1


class HashTable(NamedTuple):
    """Open addressing, at most half full: an id lies at the first place from mix(id) on that was free for it."""

    ids_S: Int64
    rows_S: Int64
    """_EMPTY where no id lies."""


class Vocabulary:
    """The ids of a table in the order of their rows."""

    def __init__(self, values: pa.Array, unknown_rows: int) -> None:
        """`values`: integers or text, none of them null. Raises DataError if one is no id, or there twice."""
        self.values = values
        self.unknown_rows = unknown_rows
        try:
            self.ids_N: Int64 = np.asarray(to_integers(values), np.int64)
        except (NotAnIdError, pa.ArrowInvalid) as error:
            raise DataError(f"holds {error}") from error
        _, first, counts = np.unique(self.ids_N, return_index=True, return_counts=True)
        if counts.max(initial=0) > 1:
            raise DataError(f"holds {values[int(first[counts > 1].min())].as_py()!r} more than once; an id has one row")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def rows_needed(self) -> int:
        """Rows that its table must have."""
        return self.unknown_rows + len(self)

    @cached_property
    def digest(self) -> str:
        """Of the ids in their order."""
        return hashlib.sha256(self.ids_N.astype("<i8").tobytes()).hexdigest()

    @cached_property
    def _table(self) -> HashTable:
        size = 1 << max(4, (2 * len(self)).bit_length())
        table = HashTable(np.zeros(size, np.int64), np.full(size, _EMPTY, np.int64))
        _insert(self.ids_N, self.unknown_rows, *table)
        return table

    def find(self, ids_V: Integers, target_V: Integers) -> bool:
        """Writes the row of each id to `target_V`; False if one is unknown and there are no rows for such: it gets
        -1.
        """
        return _find(ids_V, *self._table, np.uint64(self.unknown_rows), target_V)


@compiled
def _insert(ids_N: Int64, first_row: int, ids_S: Int64, rows_S: Int64) -> None:
    mask = np.uint64(len(ids_S) - 1)
    for index in range(len(ids_N)):
        place = mix(np.uint64(ids_N[index])) & mask
        while rows_S[place] != _EMPTY:
            place = (place + np.uint64(1)) & mask
        ids_S[place] = ids_N[index]
        rows_S[place] = first_row + index


@compiled
def _find(ids_V: Integers, ids_S: Int64, rows_S: Int64, unknown_rows: np.uint64, target_V: Integers) -> bool:
    mask = np.uint64(len(ids_S) - 1)
    is_right = True
    for index in range(len(ids_V)):
        number = np.int64(ids_V[index])
        mixed = mix(np.uint64(number))
        place = mixed & mask
        while rows_S[place] != _EMPTY and ids_S[place] != number:
            place = (place + np.uint64(1)) & mask
        row = rows_S[place]
        if row == _EMPTY and unknown_rows > np.uint64(0):
            row = np.int64(mixed % unknown_rows)
        is_right &= row != _EMPTY
        target_V[index] = row
    return is_right
