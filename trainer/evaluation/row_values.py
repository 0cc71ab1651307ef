"""A column of the test set, looked up by the numbers of rows.

It is read apart from the batches, row group by row group: evaluation goes through the test set as stored, so that a
rank needs a row group for each of its lanes at a time.

Shapes: B rows of a batch, R rows of a row group.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pyarrow as pa

from data.hashing import Int64
from data.manifest import Manifest
from data.row_groups import damage_named, read_row_group

Encode = Callable[[pa.ChunkedArray, int], Int64]
"""A number for each value of a row group, whose first row has the given number in the dataset."""


def is_groupable(kind: pa.DataType) -> bool:
    """Whether a column of this type has values that rows can be grouped by: numbers, booleans, text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or is_text)


class RowValues:
    """The values of one column as numbers; as many row groups are kept as a rank has lanes, and one."""

    def __init__(self, column: str, manifest: Manifest, lanes: int, encode: Encode) -> None:
        self._column, self._manifest, self._encode = column, manifest, encode
        self.of_group = lru_cache(maxsize=lanes + 1)(self._read)

    def of(self, row_ids_B: Int64, padding: int) -> Int64:
        """The number of each row's value; `padding` for rows below 0. UnreadableError names what cannot be read."""
        first_row = self._manifest.first_row
        group_B = np.searchsorted(first_row, row_ids_B, side="right") - 1
        codes_B = np.full(len(row_ids_B), padding)
        for group in np.unique(group_B[row_ids_B >= 0]):
            chosen_B = (group_B == group) & (row_ids_B >= 0)
            codes_B[chosen_B] = self.of_group(int(group))[row_ids_B[chosen_B] - first_row[group]]
        return codes_B

    def _read(self, group: int) -> Int64:
        """The number of every row's value in a row group (R)."""
        table = read_row_group(self._manifest, group, [self._column])
        with damage_named(self._manifest, group):  # bytes that are no UTF-8 come to light only here
            return self._encode(table[self._column], int(self._manifest.first_row[group]))
