"""What is in one column, added up block by block.

Shapes: R rows of a block, V values in them.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.columns.flat import without_nulls
from data.columns.numbers import Float64, read_exactly
from data.columns.times import seconds_of
from data.columns.types import as_plain
from data.errors import DataError
from data.profile.columns import Kind
from data.profile.counts import ValueCounts
from data.statistics import Moments, join, moments

_CONTINUOUS = 0.5
"""Share of different values in a block of numbers, from which on counting them says nothing."""

_ENOUGH = 1_000
"""Values of a block that tell this."""


class ColumnProfile:
    """A column of one process, or of several."""

    def __init__(self, kind: Kind, is_list: bool) -> None:
        self.kind = kind
        self.is_list = is_list
        self.rows = 0
        self.nulls = 0
        """Rows without a value; of lists: rows that are null."""
        self.not_finite = 0
        """NaN and ±inf."""
        self.numbers = Moments()
        """Of the values; of times in seconds since 1970, in UTC."""
        self.lengths = Moments()
        """Of lists."""
        self.is_whole = True
        """Whether all numbers are whole ones."""
        self.counts: ValueCounts | None = None if kind == "time" else ValueCounts()
        """None: too many different numbers to count."""
        self.by_window: dict[int, tuple[float, int]] = {}
        """(sum, count) of the numbers in each time window."""

    def add(self, array: pa.Array, window: int) -> None:
        """Adds a block of rows, which lie in a time window. Raises DataError if text is no UTF-8."""
        self.rows += len(array)
        self.nulls += array.null_count
        if array.null_count == len(array):
            return
        flat = without_nulls(array)
        if self.is_list and flat.offsets is not None:
            self.lengths = join(self.lengths, moments(np.diff(flat.offsets).astype(np.float64)))
        values = as_plain(flat.values)
        if self.kind != "text":
            self._add_numbers(values, window)
        elif pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if self.counts is not None and len(values):
            self._count(values)

    def _add_numbers(self, values: pa.Array, window: int) -> None:
        numbers_V: Float64 = read_exactly(seconds_of(values) if self.kind == "time" else values)
        self.numbers = join(self.numbers, moments(numbers_V))
        finite_V = numbers_V[np.isfinite(numbers_V)]
        self.not_finite += len(numbers_V) - len(finite_V)
        if self.kind == "number" and self.is_whole:
            self.is_whole = bool(np.all(finite_V == np.trunc(finite_V)))
        total, count = self.by_window.get(window, (0.0, 0))
        self.by_window[window] = (total + float(finite_V.sum()), count + len(finite_V))

    def _count(self, values: pa.Array) -> None:
        assert self.counts is not None
        if self.kind == "number":
            different = pc.count_distinct(values).as_py() if len(values) >= _ENOUGH else 0
            if not self.is_whole and different > _CONTINUOUS * len(values):
                self.counts = None
                return
            values = values.cast(pa.float64(), safe=False)
            values = values.filter(pc.is_finite(values))
        try:
            self.counts.add(values)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"text that is no UTF-8 ({error})") from error

    def join(self, other: "ColumnProfile") -> None:
        """Adds what another process, or thread, has seen."""
        self.rows += other.rows
        self.nulls += other.nulls
        self.not_finite += other.not_finite
        self.numbers = join(self.numbers, other.numbers)
        self.lengths = join(self.lengths, other.lengths)
        self.is_whole &= other.is_whole
        if self.counts is None or other.counts is None:
            self.counts = None
        else:
            self.counts.join(other.counts)
        for window, (total, count) in other.by_window.items():
            before = self.by_window.get(window, (0.0, 0))
            self.by_window[window] = (before[0] + total, before[1] + count)

    @property
    def num_values(self) -> int | None:
        """Different values; None where they were not counted."""
        return None if self.counts is None else self.counts.num_values

    @property
    def is_binary(self) -> bool:
        """Whether every value is 0 or 1, and both occur."""
        if self.kind not in ("integer", "number") or self.is_list or self.counts is None:
            return False
        return self.counts.is_exact and self.counts.table["value"].to_pylist() in ([0, 1], [1, 0])
