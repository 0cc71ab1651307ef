"""How each column of a dataset becomes a feature, or why it does not."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from data.discovery.schema import ORACLE_PREFIX, Column
from data.features import PART_SIZES, Part
from data.profile.column import ColumnProfile

IDS = re.compile(r"(^|[_.])(id|ids|uid|gid|sku|isbn|uuid|key)$|[a-z](Id|ID|Ids|IDs)$", re.IGNORECASE)
"""Names of columns whose numbers count nothing."""
FEW_VALUES = 100
"""Up to so many different whole numbers are taken for categories."""
NUMBERED = 4
"""Ids are taken for numbered from 0 on if there are not many more numbers than ids."""
BUCKETS = 20
SPREAD = ((1_000, 100), (1_000_000, 20), (10_000_000, 5), (2**63, 2))
"""(different ids up to, rows of a hashed table for each of them): with 20 of them 5 % of the ids share a row."""
DIMS = ((10_000, 8), (1_000_000, 16), (2**63, 32))
"""(different ids up to, width of their embeddings)."""
CLOCKS = ((1e9, 2.5e9, "seconds"), (1e12, 2.5e12, "milliseconds"), (1e15, 2.5e15, "microseconds"))
_OUTCOMES = {"label": "an outcome", "oracle": "the true mean of a label", "key": "a key", "time": "a time"}


@dataclass(frozen=True)
class Choice:
    """What becomes of a column."""

    column: str
    why: str
    sparse: tuple[dict[str, Any], ...] = ()
    dense: tuple[dict[str, Any], ...] = ()
    tables: tuple[dict[str, Any], ...] = field(default=())


def choose(path: str, column: ColumnProfile, described: Column | None, weights: str | None) -> Choice:
    """A column by its values; `weights`: the path of those beside a map's keys."""
    known = column.rows - column.nulls
    if described is not None and described.role in _OUTCOMES:
        return Choice(path, f"left out: {_OUTCOMES[described.role]} by schema.json")
    if path.startswith(ORACLE_PREFIX):
        return Choice(path, "left out: the true mean of a label")
    if known == 0:
        return Choice(path, "left out: no row has a value")
    if column.kind == "time":
        return _of_times(path, column)
    if column.kind == "number" and column.is_list:
        return _of_vectors(path, column)
    if column.num_values == 1:
        return Choice(path, "left out: all rows have one value")
    if column.kind == "number" and not (column.is_whole and IDS.search(path)):
        return _of_numbers(path, column)
    return _of_ids(path, column, described, weights)


def _of_times(path: str, column: ColumnProfile) -> Choice:
    parts: list[Part] = ["day_of_week"] if column.is_whole else ["hour", "day_of_week"]
    table = {"name": _name(path), "rows": sum(PART_SIZES[part] for part in parts), "dim": 8}
    sparse = {"column": path, "table": table["name"], "parts": parts}
    what = "a day: which of the week" if column.is_whole else "a time: its hour and day of the week"
    return Choice(path, f"{what}; days `since` another time would be a dense feature", (sparse,), tables=(table,))


def _of_vectors(path: str, column: ColumnProfile) -> Choice:
    lengths = column.lengths
    if lengths.low != lengths.high or lengths.low < 1:
        return Choice(path, f"left out: lists of {lengths.low:g} to {lengths.high:g} numbers; a vector has one length")
    size = int(lengths.low)
    return Choice(path, f"a vector of {size} numbers", dense=({"column": path, "size": size},))


def _of_numbers(path: str, column: ColumnProfile) -> Choice:
    dense = {"column": path}
    values = column.num_values
    if values is not None and values <= BUCKETS:
        return Choice(path, f"a number of {values} different values", dense=(dense,))
    table = {"name": f"{_name(path)}_bucket", "rows": BUCKETS, "dim": 8}
    bucket = {
        "column": path,
        "name": f"{path}_bucket",
        "table": table["name"],
        "boundaries": f"quantiles:{BUCKETS}",
    }
    return Choice(path, "a number, and which twentieth of the rows it lies in", (bucket,), (dense,), (table,))


def _of_ids(path: str, column: ColumnProfile, described: Column | None, weights: str | None) -> Choice:
    values = column.num_values or 0
    counted = column.rows - column.nulls
    is_id = column.kind == "text" or column.is_list or IDS.search(path) is not None
    if not column.is_list and values > FEW_VALUES and values > 0.5 * counted:
        clock = _clock(column)
        what = f"a clock in {clock}: store it as a timestamp to use its hour" if clock else "hardly a value comes twice"
        return Choice(path, f"left out: {what}")
    if not is_id and values > FEW_VALUES:
        return _of_numbers(path, column)

    keys: dict[str, Any] = {"column": path, "table": _name(path)}
    rows = values
    cardinality = described.cardinality if described is not None and column.kind == "integer" else None
    if cardinality and cardinality <= NUMBERED * values + FEW_VALUES:
        rows = cardinality
        why = f"{rows:,} ids by schema.json"
    else:
        keys["hash"] = True
        rows = _rounded(values * _step(SPREAD, values))
        why = f"{'at least ' if column.counts and not column.counts.is_exact else ''}{values:,} different values"
    if column.is_list:
        keys["pooling"] = "mean"
        why += f", {column.lengths.mean:.1f} a row"
    if weights is not None:
        keys["weights"] = weights
    table = {"name": _name(path), "rows": rows, "dim": _step(DIMS, values)}
    return Choice(path, why, (keys,), tables=(table,))


def _clock(column: ColumnProfile) -> str | None:
    numbers = column.numbers
    units = (unit for low, high, unit in CLOCKS if low <= numbers.low <= numbers.high <= high)
    return next(units, None) if column.kind == "integer" else None


def _step(steps: tuple[tuple[int, int], ...], values: int) -> int:
    return next(result for limit, result in steps if values <= limit)


def _rounded(rows: int) -> int:
    """Up to two digits, and 1,000 at least."""
    unit = 10 ** max(int(math.log10(max(rows, 1))) - 1, 0)
    return max(math.ceil(rows / unit) * unit, 1_000)


def _name(path: str) -> str:
    """Of a table."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", path)
