"""The table of `adatt stats`: a row for each column of a dataset."""

from typing import Any

from rich.table import Table

from data.manifest import Manifest
from data.profile.summary import Summary

_TEXTS = ("column", "kind")
_NUMBERS = ("null", "different", "smallest", "median", "largest", "mean", "deviation")
_MOST_WINDOWS = 31
_LONGEST = 24
"""Characters of a value that are shown."""


def profile_table(manifest: Manifest, summaries: list[Summary]) -> Table:
    """What a profile says of each column."""
    files, groups = len(manifest.files), len(manifest.rows)
    table = Table(title=f"{manifest.uri}: {manifest.num_rows:,} rows, {files:,} files, {groups:,} row groups")
    for name in _TEXTS:
        table.add_column(name, overflow="fold")  # names in full
    for name in _NUMBERS:
        table.add_column(name, justify="right")
    table.add_column("most frequent")
    for entry in summaries:
        table.add_row(*_cells(entry))
    return table


def rates_table(summaries: list[Summary]) -> Table | None:
    """The share of 1 in the columns of 0 and 1, by time window; None if there is one window only, or no such column."""
    binary = [entry for entry in summaries if entry.rates is not None]
    windows = list(dict.fromkeys(window for entry in binary for window in entry.rates or {}))
    if len(windows) < 2:
        return None
    table = Table(title="share of 1, by time window")
    table.add_column("window", overflow="fold")
    for entry in binary:
        table.add_column(entry.column, justify="right")
    for window in windows[-_MOST_WINDOWS:]:
        rates = [(entry.rates or {}).get(window) for entry in binary]
        table.add_row(window, *("" if rate is None else f"{rate:.2%}" for rate in rates))
    if len(windows) > _MOST_WINDOWS:
        table.caption = f"the last {_MOST_WINDOWS} of {len(windows):,} windows; all of them with --json"
    return table


def _cells(entry: Summary) -> list[str]:
    kind = entry.kind if entry.length is None else f"{entry.kind}, {entry.length:.1f} a row"
    null = f"{entry.nulls / entry.rows:.1%}" if entry.nulls else ""
    if entry.not_finite:
        null += f" +{entry.not_finite:,} NaN"
    median = entry.quantiles[len(entry.quantiles) // 2] if entry.quantiles else None
    numbers = (entry.low, median, entry.high, entry.mean, entry.deviation)
    top = ""
    if entry.top and entry.distinct is not None and entry.top[0][1] > 1:
        value, count = entry.top[0]
        top = f"{_short(value)} ({count / max(entry.rows, 1):.1%})"
    different = "" if entry.distinct is None else f"{entry.distinct:,}"
    return [entry.column, kind, null, different, *map(_short, numbers), top]


def _short(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
