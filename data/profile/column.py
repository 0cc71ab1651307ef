"""What is in one column, added up block by block.

Shapes: R rows of a block, V values in them.
"""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.columns.flat import without_nulls
from data.columns.numbers import Float64, read_exactly
from data.columns.times import seconds_of
from data.columns.types import as_plain
from data.compiled import compiled
from data.errors import DataError
from data.profile.columns import Kind
from data.profile.counts import ValueCounts
from data.statistics import Moments, join, moments

_CONTINUOUS = 0.5
"""Share of different values in a block of numbers, from which on counting them says nothing."""

_DAY_SECONDS = 86_400
_ENOUGH = 1_000
"""Values of a block that tell this."""


class ColumnProfile:
    """A column of one process, or of several."""

    def __init__(self, kind: Kind, is_list: bool, *, keeps_all: bool = False) -> None:
        """`keeps_all`: values are counted even where most of them are different."""
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
        """Whether all numbers are whole ones; of times, whether all are days."""
        self.counts: ValueCounts | None = None if kind == "time" else ValueCounts(keeps_all=keeps_all)
        """None: too many different numbers to count."""
        self._is_judged = keeps_all
        """Whether it was found out if numbers are too many to count."""
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
        of_block, total_of_block, is_whole = _moments(numbers_V)
        if self.kind == "time":
            is_whole = bool(np.all(numbers_V % _DAY_SECONDS == 0))
        self.numbers = join(self.numbers, of_block)
        self.not_finite += len(numbers_V) - of_block.count
        self.is_whole &= is_whole
        total, count = self.by_window.get(window, (0.0, 0))
        self.by_window[window] = (total + total_of_block, count + of_block.count)

    def _count(self, values: pa.Array) -> None:
        assert self.counts is not None
        if self.kind == "number":
            if not self._is_judged and not self.is_whole and len(values) >= _ENOUGH:
                self._is_judged = True
                if pc.count_distinct(values).as_py() > _CONTINUOUS * len(values):
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


def _moments(numbers_V: Float64) -> tuple[Moments, float, bool]:
    """Of the finite numbers, their sum, and whether all of them are whole."""
    count, first, distance, squares, low, high, is_whole = _measure(numbers_V)
    if count == 0:
        return Moments(), 0.0, True
    found = Moments(first + distance / count, math.sqrt(squares / count), float(count), count, low, high)
    return found, first * count + distance, is_whole


@compiled
def _measure(numbers_V: Float64) -> tuple[int, float, float, float, float, float, bool]:
    """Of the finite numbers: count, the first, sum of distances from it and of squared ones from the mean, smallest,
    largest, and whether all are whole.
    """
    count = 0
    total = 0.0
    first = 0.0
    low = np.inf
    high = -np.inf
    is_whole = True
    for number in numbers_V:
        if np.isfinite(number):
            if count == 0:
                first = number  # a clock in milliseconds has no digits left for sums of its values
            count += 1
            total += number - first
            low = min(low, number)
            high = max(high, number)
            is_whole &= number == np.trunc(number)

    mean = total / max(count, 1)
    squares = 0.0
    for number in numbers_V:
        if np.isfinite(number):
            squares += (number - first - mean) ** 2
    return count, first, total, squares, low, high, is_whole
