"""Values that nothing can be made of: an error that knows every row of a table with the same fault.

Shapes: N rows of a table, V values that they hold.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.errors import DataError
from data.hashing import Int64

Bool = NDArray[np.bool_]


class BadValueError(DataError):
    """Some rows hold a value that cannot be used; the message names the first of them."""

    def __init__(self, message: str, column: str, reason: str, is_bad_N: Bool) -> None:
        super().__init__(message)
        self.column = column
        self.reason = reason
        """Without the value, so that rows can be counted by it: `not 0, 1 or null`."""
        self.is_bad_N = is_bad_N

    def __reduce__(self) -> tuple[Any, ...]:
        """Another rank needs no more of it than the message."""
        return DataError, (str(self),)


class NotAnIdError(ValueError):
    """Values that no id can be made of, and why; the message is about the first."""

    def __init__(self, is_bad_V: Bool, message: str, reason: str) -> None:
        super().__init__(message)
        self.is_bad_V = is_bad_V
        self.reason = reason


@dataclass(frozen=True)
class BadRows:
    """Rows that were left out for the same fault of the same column."""

    column: str
    reason: str
    message: str
    """Names one of them, with its value."""
    places: Int64
    """Where they stood among the chosen rows, ascending."""
    rows: Int64
    """The same rows as the table counts them."""


def mask_of(rows: Int64, num_rows: int) -> Bool:
    """True for the rows given."""
    is_there_N = np.zeros(num_rows, np.bool_)
    is_there_N[rows] = True
    return is_there_N


def without_rows(table: pa.Table, is_bad_N: Bool) -> pa.Table:
    """The other rows of a table; by slices, since Arrow filters no views of text."""
    edges = np.flatnonzero(np.diff(is_bad_N)) + 1
    begins = [0, *edges.tolist()]
    ends = [*edges.tolist(), len(is_bad_N)]
    kept = [
        table.slice(begin, end - begin)
        for begin, end in zip(begins, ends, strict=True)
        if begin < end and not is_bad_N[begin]
    ]
    return pa.concat_tables(kept) if kept else table.slice(0, 0)
