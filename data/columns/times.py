"""Times and dates: their parts as ids, and how long ago they were.

An instant is the same whatever its column's time zone, which some writers keep and others do not: all are read as UTC.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.columns.types import spread
from data.features import PART_SIZES, Part, SparseFeature
from data.hashing import Int64

_READ = {
    "minute": pc.minute,
    "hour": pc.hour,
    "day_of_week": pc.day_of_week,
    "day": lambda times: pc.subtract(pc.day(times), 1),
    "month": lambda times: pc.subtract(pc.month(times), 1),
}
"""Numbers from 0; weeks begin on Monday."""
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY_SECONDS = 86_400


def part_ids(times: pa.Array, feature: SparseFeature) -> pa.Array:
    """A list of the feature's parts for each time, each part after those before it; null for null."""
    local = _as_utc(times)
    if feature.timezone != "UTC":
        zoned = local.cast(pa.timestamp(local.type.unit, "UTC")).cast(pa.timestamp(local.type.unit, feature.timezone))
        local = pc.local_timestamp(zoned)

    known = local.drop_null()
    first = 0
    columns: list[Int64] = []
    for part in feature.parts:
        columns.append(_numbers(known, part) + first)
        first += PART_SIZES[part]

    ids = pa.array(np.stack(columns, axis=1).reshape(-1))
    values = ids if len(columns) == 1 else pa.FixedSizeListArray.from_arrays(ids, len(columns))
    return spread(values, times.is_valid().to_numpy(zero_copy_only=False)) if times.null_count else values


def days_between(earlier: pa.Array, later: pa.Array) -> pa.Array:
    """`later` - `earlier` in days, as float64; null where one of them is."""
    return pc.divide(pc.subtract(seconds_of(later), seconds_of(earlier)), float(_DAY_SECONDS))


def _as_utc(times: pa.Array) -> pa.Array:
    """Timestamps without a zone."""
    kind = times.type
    if pa.types.is_date32(kind):
        return times.cast(pa.timestamp("s"))
    unit = "ms" if pa.types.is_date64(kind) else kind.unit
    return times.cast(pa.timestamp(unit))


def seconds_of(times: pa.Array) -> pa.Array:
    """Seconds since 1970 in UTC, as float64."""
    if pa.types.is_null(times.type):
        return pa.nulls(len(times), pa.float64())
    utc = _as_utc(times)
    return pc.divide(utc.cast(pa.int64()).cast(pa.float64(), safe=False), float(_PER_SECOND[utc.type.unit]))


def _numbers(times: pa.Array, part: Part) -> Int64:
    return np.asarray(_READ[part](times).to_numpy(zero_copy_only=False))
