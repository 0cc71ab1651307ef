"""Rows that are alike in every column, in one dataset or in two: told by a hash of their contents.

Of all rows those with the smallest hashes are kept, so that two rows that are alike are both kept or both not, wherever
they are.
"""

import numpy as np
import pyarrow as pa

from data.columns.flat import to_integers
from data.hashing import UInt64, mix

HASHES = 1 << 16
"""Rows that are kept: a share of them is known to ± 0.2 %."""
_NULL = np.uint64(0x6E756C6C)


class Contents:
    """Hashes of rows, of one process or several."""

    def __init__(self) -> None:
        self.hashes: UInt64 = np.zeros(0, np.uint64)
        self.limit = np.uint64(2**64 - 1)
        """All rows up to this hash are kept, and no others."""

    def add(self, columns: dict[str, pa.Array]) -> None:
        """Adds rows with these columns, none of them lists; their order does not matter."""
        if not columns:
            return
        hashes_R = np.zeros(len(next(iter(columns.values()))), np.uint64)
        for name in sorted(columns):
            hashes_R = mix(hashes_R ^ _bits(columns[name]))
        self._keep(hashes_R)

    def join(self, other: "Contents") -> None:
        """Adds what another has seen."""
        self.limit = min(self.limit, other.limit)
        self._keep(other.hashes)

    def _keep(self, hashes: UInt64) -> None:
        hashes = np.concatenate([self.hashes, hashes])
        hashes = hashes[hashes <= self.limit]
        if len(hashes) > 2 * HASHES:
            different = np.unique(hashes)
            self.limit = different[min(HASHES, len(different)) - 1]
            hashes = hashes[hashes <= self.limit]
        self.hashes = hashes

    @property
    def repeated(self) -> float:
        """Share of the rows that repeat an earlier one."""
        return 1 - len(np.unique(self.hashes)) / len(self.hashes) if len(self.hashes) else 0.0

    def found_in(self, other: "Contents") -> float:
        """Share of these rows that are in another dataset too."""
        own = self.hashes[self.hashes <= other.limit]
        return float(np.isin(own, other.hashes).mean()) if len(own) else 0.0


def _bits(array: pa.Array) -> UInt64:
    """64 bits for each value."""
    bits = np.full(len(array), _NULL)
    if pa.types.is_null(array.type):
        return bits
    is_known = array.is_valid().to_numpy(zero_copy_only=False)
    bits[is_known] = mix(np.asarray(to_integers(_as_integers(array.drop_null())), np.int64).view(np.uint64))
    return bits


def _as_integers(values: pa.Array) -> pa.Array:
    """Numbers and times by the bits of the largest type, text as it is."""
    kind = values.type
    if pa.types.is_integer(kind):
        return values.cast(pa.int64(), safe=False)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return values.cast(pa.float64(), safe=False).view(pa.int64())
    if pa.types.is_timestamp(kind):
        return values.cast(pa.timestamp("us"), safe=False).view(pa.int64())
    if pa.types.is_date(kind):
        return values.cast(pa.timestamp("us"), safe=False).view(pa.int64())
    return values
