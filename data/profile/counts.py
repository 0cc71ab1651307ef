"""How often each value of a column occurs: all values, or the MOST most frequent ones and how many there are.

whole numbers from 0 to `_DIRECT` ─► a counter each
all others, block by block        ─► different values with counts ─► added up when enough have come together
                                     └► the smallest hashes, which tell how many different values there are
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.columns.flat import to_integers
from data.compiled import compiled
from data.hashing import Int64, UInt64, mix

MOST = 1 << 20
"""Values that are kept."""
_DIRECT = 1 << 20
_FEWEST_ADDED = 1 << 16
"""Values that are added up together, or as many as are kept by then."""
_HASHES = 1 << 14
"""The more, the better the number of values is known: to ± 0.8 % of itself."""
_FEW_REPEATS = 0.5
"""Different values in each counted one, from which on a column is taken for one whose values do not repeat."""


class ValueCounts:
    """Counts of the values of a column, of one process or several."""

    def __init__(self, *, keeps_all: bool = False) -> None:
        """`keeps_all`: also the values of a column that hardly repeats them."""
        self._keeps_all = keeps_all
        self._direct: Int64 = np.zeros(1 << 10, np.int64)
        self._new: list[pa.Table] = []
        self._num_new = 0
        self._kept: pa.Table | None = None
        self._hashes: UInt64 = np.zeros(0, np.uint64)
        """The smallest, ascending."""
        self._counted = 0
        """Values that were not counted directly."""
        self.is_exact = True
        """Whether all values are kept."""
        self.repeats = True
        """False: nearly every value is another, and none is kept."""

    def add(self, values: pa.Array) -> None:
        """Counts values, none of which is null; text that is no UTF-8 raises ArrowInvalid."""
        if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
            numbers = values.cast(pa.int64(), safe=False).to_numpy(zero_copy_only=False)
            self._make_room(numbers)
            others = np.empty(len(numbers), np.int64)
            values = pa.array(others[: _count_directly(numbers, self._direct, others)])
        if len(values) == 0:
            return

        counted = pc.value_counts(values)
        found = counted.field(0)
        if pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        found.validate(full=True)
        found = _widest(found)
        self._counted += len(values)
        if self.repeats:
            self._append(pa.table({"value": found, "count": counted.field(1)}))
        else:
            self._remember(found)

    def join(self, other: "ValueCounts") -> None:
        """Adds what another has counted."""
        if len(other._direct) > len(self._direct):
            self._direct, other._direct = other._direct.copy(), self._direct
        self._direct[: len(other._direct)] += other._direct
        self._counted += other._counted
        self._hashes = _smallest(self._hashes, other._hashes)
        other._add_up()
        if other._kept is not None:
            self._append(other._kept)
        self.is_exact &= other.is_exact
        if self.repeats and not other.repeats:
            self._add_up()
            self._forget()

    @property
    def table(self) -> pa.Table:
        """`value` and `count`, the most frequent first; of equally frequent ones the smaller first."""
        self._add_up()
        direct = np.flatnonzero(self._direct)
        table = pa.table({"value": direct, "count": self._direct[direct]})
        if self._kept is not None and self.repeats:
            table = pa.concat_tables([table, self._kept]) if len(direct) else self._kept
        return table.sort_by([("count", "descending"), ("value", "ascending")])

    @property
    def num_values(self) -> int:
        """Different values; an estimate where not all are kept."""
        self._add_up()
        num_direct = int(np.count_nonzero(self._direct))
        if self.is_exact and self.repeats:
            return num_direct + (0 if self._kept is None else int(self._kept.num_rows))
        if len(self._hashes) < _HASHES:
            return num_direct + len(self._hashes)
        estimate = (_HASHES - 1) / (float(self._hashes[-1]) / 2**64)
        return num_direct + min(int(estimate), self._counted)

    def _make_room(self, numbers: Int64) -> None:
        """So that each number below _DIRECT is counted directly, in whatever block it comes."""
        largest = _largest_below(numbers, _DIRECT)
        size = len(self._direct)
        if size <= largest:
            wanted = 1 << largest.bit_length()
            self._direct = np.concatenate([self._direct, np.zeros(wanted - size, np.int64)])

    def _append(self, counted: pa.Table) -> None:
        self._new.append(counted)
        self._num_new += counted.num_rows
        if self._num_new > max(_FEWEST_ADDED, 0 if self._kept is None else self._kept.num_rows):
            self._add_up()

    def _add_up(self) -> None:
        if not self._new:
            return
        parts = [*self._new, self._kept] if self._kept is not None else self._new
        self._new, self._num_new = [], 0
        added = _added_up(pa.concat_tables(parts))
        self._kept = added
        hardly_repeats = added.num_rows > max(_FEWEST_ADDED, _FEW_REPEATS * self._counted)
        if hardly_repeats and not self._keeps_all:
            self._forget()
        elif added.num_rows > MOST or not self.is_exact:
            self.is_exact = False
            self._remember(added["value"].combine_chunks())
            self._kept = added.sort_by([("count", "descending"), ("value", "ascending")]).slice(0, MOST)

    def _forget(self) -> None:
        """Keeps no value from here on."""
        self.repeats = False
        if self._kept is not None:
            self._remember(self._kept["value"].combine_chunks())
            self._kept = self._kept.slice(0, 0)

    def _remember(self, values: pa.Array) -> None:
        """Their hashes, where the values themselves are not kept for good."""
        hashes = mix(np.asarray(to_integers(_for_hashes(values)), np.int64).view(np.uint64))
        self._hashes = _smallest(self._hashes, hashes)


def _widest(values: pa.Array) -> pa.Array:
    """As one type for all files."""
    kind = values.type
    if pa.types.is_integer(kind):
        return values
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return values.cast(pa.float64(), safe=False)
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return values.cast(pa.large_string() if is_string else pa.large_binary())


def _added_up(counted: pa.Table) -> pa.Table:
    """Each value once."""
    if pa.types.is_large_string(counted["value"].type) or pa.types.is_large_binary(counted["value"].type):
        added = counted.group_by("value", use_threads=False).aggregate([("count", "sum")])
        return added.rename_columns({"count_sum": "count"})
    values, places = np.unique(counted["value"].to_numpy(), return_inverse=True)
    counts = np.bincount(places, weights=counted["count"].to_numpy(), minlength=len(values))
    return pa.table({"value": values, "count": counts.astype(np.int64)})


def _for_hashes(values: pa.Array) -> pa.Array:
    """Numbers by their bits."""
    return values.view(pa.int64()) if pa.types.is_floating(values.type) else values


def _smallest(ascending: UInt64, hashes: UInt64) -> UInt64:
    if len(ascending) == _HASHES:
        hashes = hashes[hashes < ascending[-1]]
        if len(hashes) == 0:
            return ascending
    return np.unique(np.concatenate([ascending, hashes]))[:_HASHES]


@compiled
def _largest_below(numbers: Int64, limit: int) -> int:
    """The largest number below `limit`, or 0."""
    largest = 0
    for number in numbers:
        if largest < number < limit:
            largest = number
    return largest


@compiled
def _count_directly(numbers: Int64, counters: Int64, others: Int64) -> int:
    """Counts the numbers that have a counter, and copies the others; returns how many these are."""
    num_others = 0
    for number in numbers:
        if 0 <= number < len(counters):
            counters[number] += 1
        else:
            others[num_others] = number
            num_others += 1
    return num_others
