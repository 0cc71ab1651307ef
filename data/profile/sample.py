"""Rows drawn from a dataset without looking at them: those whose numbers have the smallest hashes."""

import numpy as np
import pyarrow as pa

from data.columns.types import is_list, is_time, plain_type
from data.hashing import Int64, UInt64, mix

ROWS = 1 << 15
"""A share of them is known to ± 0.3 %."""


class RowSample:
    """Up to ROWS rows, of one process or several: their numbers and times, and lists of them."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._hashes: UInt64 = np.zeros(0, np.uint64)
        self._highest = np.uint64(2**64 - 1)

    def add(self, table: pa.Table, row_ids_R: Int64) -> None:
        """Draws from rows with these numbers in the dataset."""
        hashes_R = mix(row_ids_R.view(np.uint64))
        drawn = np.flatnonzero(hashes_R <= self._highest)
        if len(drawn):
            rows = table.take(pa.array(drawn))
            columns = {name: rows[name].cast(_common(rows[name].type), safe=False) for name in rows.column_names}
            self._append(pa.table(columns), hashes_R[drawn])

    def join(self, other: "RowSample") -> None:
        """Adds what another has drawn."""
        if other._parts:
            self._append(pa.concat_tables(other._parts, promote_options="permissive"), other._hashes)

    def _append(self, table: pa.Table, hashes: UInt64) -> None:
        self._parts.append(table)
        self._hashes = np.concatenate([self._hashes, hashes])
        if len(self._hashes) > 2 * ROWS:
            self._keep_smallest()

    def _keep_smallest(self) -> None:
        order = np.argsort(self._hashes, kind="stable")[:ROWS]
        table = pa.concat_tables(self._parts, promote_options="permissive")
        self._parts = [table.take(pa.array(order)).combine_chunks()]
        self._hashes = self._hashes[order]
        if len(order) == ROWS:
            self._highest = self._hashes[-1]

    @property
    def table(self) -> pa.Table:
        """The rows, in an order of their own."""
        if not self._parts:
            return pa.table({})
        self._keep_smallest()
        return self._parts[0]


def _common(kind: pa.DataType) -> pa.DataType:
    """The type of numbers and times, and of lists of them, in which all files agree."""
    if is_list(kind):
        return pa.large_list(_common(plain_type(kind.value_type)))
    return pa.timestamp("us") if is_time(kind) else kind if pa.types.is_null(kind) else pa.float64()
