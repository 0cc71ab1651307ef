"""Raw rows of a log → the ids and numbers that the model reads, as in its training.

    recipe = Recipe("features.json")
    sparse, dense = recipe.inputs([{"user_id": 7, "tab": "home", "tags": ["a", "b"], "age": None}])

A row maps columns to values: numbers, text, bytes, lists, None for null; times are ISO 8601 text or datetime objects.
`user.city` is the row's own key of that name, or the field of {"user": {"city": ...}}. As JSON holds no bytes and no
infinite numbers, {"hex": "00ff"} stands for bytes, and "NaN", "Infinity" and "-Infinity" for numbers.

Whatever the training would have refused raises ValueError here. This file needs nothing but Python 3.11 and numpy.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from trainer.export.standalone.hashes import MASK, mix, xxh3_64

PARTS = {"minute": 60, "hour": 24, "day_of_week": 7, "day": 31, "month": 12}
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
CROSSED_NULL = 0x6E756C6C
BILLION = 10**9
TIME = re.compile(  # date, time of the day, billionths, and the zone's sign, hours and minutes
    r"(-?\d{4,11}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d)(?::?(\d\d))?)?", re.ASCII
)
Ids = dict[str, np.ndarray]
"""Of a sparse feature: `ids`, table rows in int64; `offsets`, where the ids of each row begin among them; and of a
feature that has weights, `weights` in float32, one for each id."""


class Recipe:
    """How raw rows become the model's inputs; `path`: of features.json, with the vocabularies beside it."""

    def __init__(self, path: str | Path) -> None:
        recipe = json.loads(Path(path).read_text(encoding="utf-8"))
        self.columns: dict[str, dict[str, Any]] = recipe["columns"]
        self.sparse: list[dict[str, Any]] = recipe["sparse"]
        self.dense: list[dict[str, Any]] = recipe["dense"]
        files = {feature["vocabulary"] for feature in self.sparse} - {None}
        self._vocabularies = {file: _sorted_ids(np.load(Path(path).parent / file)) for file in files}

    def inputs(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Ids], np.ndarray]:
        """(ids of each sparse feature by its name, dense inputs [rows, inputs] in float32)."""
        with np.errstate(over="ignore"):  # what is more than float32 holds becomes infinite
            sparse = {feature["name"]: self._ids(feature, rows) for feature in self.sparse}
            dense = [self._numbers(feature, rows) for feature in self.dense]
        return sparse, np.concatenate([np.zeros((len(rows), 0), np.float32), *dense], axis=1)

    def _ids(self, feature: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> Ids:
        found: list[int] = []
        weights: list[float] = []
        offsets = []
        for number, row in enumerate(rows):
            offsets.append(len(found))
            try:
                pairs = list(self._pairs(feature, row))
            except (ArithmeticError, TypeError, ValueError) as error:
                raise ValueError(f"row {number}: feature {feature['name']!r}: {error}") from error
            if feature["first"] is not None:
                pairs = pairs[: feature["first"]]
            if feature["last"] is not None:
                pairs = pairs[-feature["last"] :]
            for table_rows, weight in pairs:
                found += table_rows
                weights += [weight] * len(table_rows)
        ids = {"ids": np.array(found, np.int64), "offsets": np.array(offsets, np.int64)}
        if feature["weights"] is not None:
            ids["weights"] = np.array(weights, np.float32)
        return ids

    def _pairs(self, feature: dict[str, Any], row: Mapping[str, Any]) -> Iterator[tuple[list[int], float]]:
        """(table rows, weight) of each of the row's ids."""
        if feature["way"] == "cross":
            combined = 0
            for name in feature["columns"]:
                value = self._value(row, name)
                number = CROSSED_NULL if value is None else mix(_integer(value, self.columns[name]["kind"], name))
                combined = mix(combined ^ number)
            yield self._table_rows(feature, combined), 1.0
            return

        column = feature["columns"][0]
        kind = self.columns[column]["kind"]
        values = _elements(self._value(row, column), kind, column)
        weights: Sequence[Any] = [1.0] * len(values)
        if feature["weights"] is not None:
            weights = _elements(self._value(row, feature["weights"]), "list of number", feature["weights"])
        if len(weights) != len(values):
            raise ValueError(f"{len(weights)} weights for {len(values)} ids; write one for each")

        for value, weight in zip(values, weights, strict=True):
            if _is_null(value):
                continue
            if feature["weights"] is not None and not np.isfinite(np.float32(_number(weight, feature["weights"]))):
                raise ValueError(f"weight {weight!r} is no finite number")
            yield self._found(feature, value, column), weight

    def _found(self, feature: dict[str, Any], value: Any, column: str) -> list[int]:
        """The table rows of a value."""
        if feature["way"] == "parts":
            return _parts(_instant(value, column), feature["parts"], feature["timezone"])
        if feature["way"] == "boundaries":
            # A column of float32 has rounded its values, and the boundaries are rounded alike.
            kind = np.float32 if self.columns[column]["float32"] else np.float64
            edges = np.array(feature["boundaries"], kind)
            return [int(np.searchsorted(edges, kind(_number(value, column)), side="right"))]
        return self._table_rows(feature, _integer(value, self.columns[column]["kind"], column))

    def _table_rows(self, feature: dict[str, Any], number: int) -> list[int]:
        rows: int = feature["rows"]
        if feature["way"] == "vocabulary":
            return [self._row_in(feature, number)]
        if feature["way"] == "value":
            if not 0 <= number < rows:
                raise ValueError(f"id {number} has no row of table {feature['table']!r}, which has {rows}")
            return [number]
        return [mix(number ^ int(bits, 16)) % rows for bits in feature["xor"]]

    def _row_in(self, feature: dict[str, Any], number: int) -> int:
        ids, places = self._vocabularies[feature["vocabulary"]]
        at = int(np.searchsorted(ids, np.uint64(number & MASK)))
        if at < len(ids) and int(ids[at]) == number & MASK:
            return feature["unknown_rows"] + int(places[at])
        if not feature["unknown_rows"]:
            raise ValueError("an id is not in the vocabulary, which has no rows for such")
        return mix(number) % feature["unknown_rows"]

    def _numbers(self, feature: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """(transform(x) - mean) / scale, [rows, inputs]; 0 where x is missing."""
        values = np.full((len(rows), feature["size"] or 1), np.nan)
        for number, row in enumerate(rows):
            try:
                values[number] = self._dense_values(feature, row)
            except (ArithmeticError, TypeError, ValueError) as error:
                raise ValueError(f"row {number}: dense feature {feature['column']!r}: {error}") from error

        if feature["fill"] is not None:
            values[~np.isfinite(values)] = feature["fill"]
        is_known = np.isfinite(values)
        values[~is_known] = 0
        if feature["clip"] is not None:
            values = np.clip(values, *feature["clip"])
        change = {"none": np.abs, "log1p": np.log1p, "sqrt": np.sqrt}[feature["transform"]]
        values = np.copysign(change(np.abs(values)), values)
        scaled = ((values - feature["mean"]) / feature["scale"]).astype(np.float32)
        if np.isinf(scaled[is_known]).any():
            raise ValueError(f"dense feature {feature['column']!r}: a value is more than float32 holds")
        return np.where(is_known, scaled, np.float32(0))

    def _dense_values(self, feature: dict[str, Any], row: Mapping[str, Any]) -> Any:
        column = feature["column"]
        value = self._value(row, column)
        if feature["since"] is not None:
            earlier = self._value(row, feature["since"])
            if _is_null(value) or _is_null(earlier):
                return math.nan
            # Each in seconds first, whose rounding is that of the training.
            return (_instant(value, column) / BILLION - _instant(earlier, feature["since"]) / BILLION) / 86_400
        if feature["size"] is None or _is_null(value):
            return math.nan if _is_null(value) else _number(value, column)

        values = _elements(value, "list of number", column)
        if len(values) != feature["size"]:
            raise ValueError(f"has {len(values)} numbers, not {feature['size']}; write None for a missing one")
        return [math.nan if _is_null(entry) else _number(entry, column) for entry in values]

    def _value(self, row: Mapping[str, Any], column: str) -> Any:
        """What the row holds in a column, in Python's own types."""
        try:
            value = _at(row, column)
        except (KeyError, TypeError):
            if self.columns[column]["missing"] == "null":
                return None
            raise ValueError(f"there is no column {column!r}; write None if it is null") from None
        if isinstance(value, np.generic | np.ndarray) and value.dtype.kind != "M":
            value = value.tolist()
        if type(value).__name__ == "NAType":  # pandas' null
            return None
        if not self.columns[column]["kind"].endswith(("number", "integer")):
            return value
        return [_finite_or_not(entry) for entry in value] if isinstance(value, list) else _finite_or_not(value)


def _at(row: Mapping[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    names = column.split(".")
    for count in range(len(names) - 1, 0, -1):
        name = ".".join(names[:count])
        if name in row:
            return _field(row[name], names[count:])
    raise KeyError(column)


def _field(value: Any, names: list[str]) -> Any:
    """A field of a structure, of each structure in a list, or the keys or values of a map."""
    for name in names:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            value = [None if entry is None else entry[name] for entry in value]
        elif name in value or name not in ("key", "value"):
            value = value[name]
        else:
            value = list(value if name == "key" else value.values())
    return value


def _elements(value: Any, kind: str, column: str) -> Sequence[Any]:
    """The values of a row: those of its list, or the one that it has."""
    if _is_null(value):
        return []
    is_list = isinstance(value, list | tuple)
    if is_list != kind.startswith("list of ") and kind != "null":
        raise ValueError(f"column {column!r} holds {value!r}, but the model is trained on values of kind {kind}")
    return value if is_list else [value]


def _is_null(value: Any) -> bool:
    return value is None or bool(value != value)  # NaN is unlike itself


def _finite_or_not(value: Any) -> Any:
    """The number that a text in JSON stands for; anything else as it is."""
    return float(value) if isinstance(value, str) and value in NOT_FINITE else value


def _number(value: Any, column: str | None) -> float:
    if not isinstance(value, int | float | Decimal):
        raise ValueError(f"column {column!r} holds {value!r}, not a number")
    return float(value)


def _integer(value: Any, kind: str, column: str) -> int:
    """An id as an integer of 64 bits; text stands for the hash of its bytes."""
    if type(value) is int and kind.endswith("integer") and abs(value) < 1 << 63:
        return value
    if isinstance(value, Mapping) and value.keys() == {"hex"}:
        value = bytes.fromhex(value["hex"])
    is_text = isinstance(value, str | bytes | bytearray | memoryview)
    trained_on = kind.removeprefix("list of ")
    if trained_on != "null" and is_text != (trained_on == "text"):
        raise ValueError(f"column {column!r} holds {value!r}, but the model is trained on values of kind {trained_on}")
    if is_text:
        return xxh3_64(value.encode() if isinstance(value, str) else bytes(value))

    if not isinstance(value, int) and (not math.isfinite(_number(value, column)) or value != math.trunc(value)):
        raise ValueError(f"column {column!r} holds {value!r}, which is no whole number")
    if isinstance(value, float) and abs(value) > 2.0**53:
        raise ValueError(f"column {column!r} holds {value!r}; write an id of this size as an integer")
    whole = int(value)
    if not -(1 << 63) <= whole < 1 << 63:
        raise ValueError(f"column {column!r} holds id {value!r}, more than 64 bits hold")
    return whole


def _instant(value: Any, column: str) -> int:
    """Billionths of a second since 1970 in UTC; a time without a zone is in UTC."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    text = value.isoformat() if isinstance(value, date) else str(value)
    match = TIME.fullmatch(text) if isinstance(value, str | date | np.datetime64) else None
    try:
        if match is None:
            raise ValueError
        seconds = int(np.datetime64(match[1].replace(" ", "T"), "s").astype(np.int64))
    except ValueError:
        raise ValueError(f"column {column!r} holds {value!r}, which is no time as in 2022-04-25T13:00:00") from None
    ahead = 3600 * int(match[4] or 0) + 60 * int(match[5] or 0)
    seconds += ahead if match[3] == "-" else -ahead
    return seconds * BILLION + int((match[2] or "0").ljust(9, "0"))


def _parts(instant: int, parts: Sequence[str], timezone: str) -> list[int]:
    """An id for each part, those of a part after those of the parts before it."""
    try:
        utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=instant // BILLION)
    except OverflowError:
        raise ValueError("a time lies beyond the years 1 to 9999") from None
    local = utc.astimezone(ZoneInfo(timezone))
    numbers = (local.minute, local.hour, local.weekday(), local.day - 1, local.month - 1)
    value_of = dict(zip(PARTS, numbers, strict=True))
    firsts = accumulate((PARTS[part] for part in parts), initial=0)
    return [first + value_of[part] for first, part in zip(firsts, parts, strict=False)]


def _sorted_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a vocabulary as unsigned numbers, ascending, and the place of each in the vocabulary."""
    unsigned = ids.view(np.uint64)
    places = np.argsort(unsigned, kind="stable")
    return unsigned[places], places
