"""A column of the test set, looked up by the numbers of rows.

It is read apart from the batches, row group by row group: evaluation goes through the test set as it is stored, so that
a rank needs one row group for each of its lanes at a time.

Shapes: B rows of a batch, R rows of a row group.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pyarrow as pa

from data.hashing import Int64
from data.manifest import Manifest
from data.pipeline.open_files import OpenFiles
from data.pipeline.row_groups import damage_named, read_row_group

Encode = Callable[[pa.ChunkedArray, int], Int64]
"""Turns the values of a row group into a code for each (R); the second argument is its first row in the dataset."""


class RowValues:
    """The values of one column as integer codes. It keeps as many row groups as a rank has lanes, and one more."""

    def __init__(self, column: str, manifest: Manifest, lanes: int, encode: Encode) -> None:
        self._column = column
        self._manifest = manifest
        self._encode = encode
        self._files = OpenFiles(manifest)
        self.codes_of_group = lru_cache(maxsize=lanes + 1)(self._read)

    def codes_of(self, row_ids_B: Int64, padding: int) -> Int64:
        """The code of each row's value, and `padding` for row ids below 0.

        Raises UnreadableError, which names the file, if a row group cannot be read.
        """
        first_row = self._manifest.first_row
        # The last row group that begins at or before the row; -1 for padding.
        group_B = np.searchsorted(first_row, row_ids_B, side="right") - 1
        is_row_B = row_ids_B >= 0
        codes_B = np.full(len(row_ids_B), padding)

        for group in np.unique(group_B[is_row_B]):
            in_group_B = group_B == group
            rows = row_ids_B[in_group_B] - first_row[group]
            codes_of_group = self.codes_of_group(int(group))
            codes_B[in_group_B] = codes_of_group[rows]

        return codes_B

    def _read(self, group: int) -> Int64:
        """The code of every row's value in a row group (R)."""
        table = read_row_group(self._manifest, group, [self._column], self._files)
        # Text is decoded only when the values are encoded, so that bytes that are no UTF-8 come to light here.
        first_row = int(self._manifest.first_row[group])
        with damage_named(self._manifest, group):
            return self._encode(table[self._column], first_row)
