"""What a profile says of each column, in numbers that a table or a line of JSON can show."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from data.columns.decode import plain_column
from data.columns.flat import without_nulls
from data.columns.numbers import read_exactly
from data.columns.times import seconds_of
from data.columns.types import as_plain
from data.manifest import Manifest
from data.profile.column import ColumnProfile
from data.profile.dataset import DatasetProfile

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
TOP = 5


@dataclass(frozen=True)
class Summary:
    """Of one column."""

    column: str
    kind: str
    rows: int
    nulls: int
    not_finite: int
    distinct: int | None
    """Different values, an estimate above a million; None where numbers were not counted."""
    low: Any
    high: Any
    """Of times as text."""
    mean: float | None
    deviation: float | None
    quantiles: tuple[Any, ...]
    """At QUANTILES, from a sample of rows; empty for text."""
    top: tuple[tuple[Any, int], ...]
    """The most frequent values, with how often each occurs."""
    length: float | None
    """Mean length of lists."""
    longest: int | None
    rates: dict[str, float] | None
    """Of a column of 0 and 1: the share of 1 in each time window, by its name; None for others."""


def summarise(profile: DatasetProfile, manifest: Manifest) -> list[Summary]:
    """Of every column, in the order of the dataset."""
    names = dict(zip(manifest.window.tolist(), np.array(manifest.window_names)[manifest.file].tolist(), strict=True))
    sample = profile.sample.table
    return [
        _summary(path, column, plain_column(sample, path) if path in sample.column_names else None, names)
        for path, column in profile.columns.items()
    ]


def _summary(path: str, column: ColumnProfile, sample: pa.Array | None, windows: dict[int, str]) -> Summary:
    numbers = column.numbers
    is_known = numbers.count > 0
    show = _as_time if column.kind == "time" else _as_number
    top = column.counts.table.slice(0, TOP).to_pylist() if column.counts is not None else []
    return Summary(
        column=path,
        kind=f"list of {column.kind}" if column.is_list else column.kind,
        rows=column.rows,
        nulls=column.nulls,
        not_finite=column.not_finite,
        distinct=column.num_values,
        low=show(numbers.low) if is_known else None,
        high=show(numbers.high) if is_known else None,
        mean=numbers.mean if is_known and column.kind != "time" else None,
        deviation=numbers.deviation if is_known and column.kind != "time" else None,
        quantiles=tuple(map(show, sample_quantiles(column, sample))),
        top=tuple((_printable(entry["value"]), entry["count"]) for entry in top),
        length=column.lengths.mean if column.is_list and column.lengths.count else None,
        longest=int(column.lengths.high) if column.is_list and column.lengths.count else None,
        rates=_rates(column, windows) if column.is_binary else None,
    )


def _rates(column: ColumnProfile, windows: dict[int, str]) -> dict[str, float]:
    sums = sorted(column.by_window.items())
    return {windows[window]: total / count for window, (total, count) in sums if count}


def sample_quantiles(column: ColumnProfile, sample: pa.Array | None) -> list[float]:
    """At QUANTILES of the sampled values; empty if there are none, or they are no numbers."""
    if sample is None or sample.null_count == len(sample):
        return []
    values = as_plain(without_nulls(sample).values)
    numbers = read_exactly(seconds_of(values) if column.kind == "time" else values)
    numbers = numbers[np.isfinite(numbers)]
    return np.quantile(numbers, QUANTILES, method="inverted_cdf").tolist() if len(numbers) else []


def _as_number(value: float) -> float | int:
    return int(value) if math.isfinite(value) and value == int(value) else value


def _as_time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"


def _printable(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
