"""How many ids of hashed features share a row with another, counted where all of them are known.

Shapes: N different ids of a table.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from data.collisions import Crowding
from data.columns.decode import Columns
from data.columns.flat import to_integers
from data.columns.ids import seed_bits
from data.features import SparseFeature
from data.hashing import Int64, fold
from data.profile.column import ColumnProfile
from data.profile.dataset import DatasetProfile


@dataclass(frozen=True)
class Sharing:
    """Of one table."""

    table: str
    features: tuple[str, ...]
    rows: int
    ids: int
    share_of_ids: float
    """That meet a row of several ids."""
    share_of_lookups: float
    is_counted: bool
    """False: expected, from the number of ids."""


def sharing(profile: DatasetProfile, columns: Columns) -> Iterator[Sharing]:
    """Of each table with hashed ids whose columns have been looked at; crosses have not."""
    tables: dict[str, list[SparseFeature]] = {}
    for feature in columns.features.sparse:
        if feature.hash and feature.column in profile.columns:
            tables.setdefault(feature.table, []).append(feature)

    for table, features in tables.items():
        names = tuple(feature.name for feature in features)
        rows = columns.table_rows[table]
        found = [profile.columns[feature.column] for feature in features]
        can_count = all(_is_known(column) for column in found)
        if can_count and all(feature.hashes == 1 for feature in features):
            yield Sharing(table, names, rows, *_count(features, found, rows), is_counted=True)
        else:
            ids = max(column.num_values or 0 for column in found)
            share = Crowding(table, rows, ids, "", min(feature.hashes for feature in features)).share
            yield Sharing(table, names, rows, ids, share, share, is_counted=False)


def _is_known(column: ColumnProfile) -> bool:
    return column.counts is not None and column.counts.is_exact and column.counts.repeats


def _count(features: list[SparseFeature], columns: list[ColumnProfile], rows: int) -> tuple[int, float, float]:
    """Different ids of the columns, and which share of them and of their lookups meets a row of several."""
    bits: list[Int64] = []
    counts: list[Int64] = []
    for feature, column in zip(features, columns, strict=True):
        assert column.counts is not None
        counted = column.counts.table
        numbers = np.asarray(to_integers(counted["value"].combine_chunks()), np.int64)
        bits.append(numbers ^ np.int64(seed_bits(feature.seed).view(np.int64)))
        counts.append(counted["count"].to_numpy())

    bits_N, places = np.unique(np.concatenate(bits), return_inverse=True)
    counts_N = np.bincount(places, weights=np.concatenate(counts), minlength=len(bits_N))
    _, row_of_id, ids_of_row = np.unique(fold(bits_N, rows), return_inverse=True, return_counts=True)
    is_shared_N = ids_of_row[row_of_id] > 1
    share_of_ids = is_shared_N.sum() / max(len(bits_N), 1)
    return len(bits_N), float(share_of_ids), float(counts_N @ is_shared_N / max(counts_N.sum(), 1))


def sharing_table(found: list[Sharing]) -> Table | None:
    """How crowded each table is; None if there is none."""
    if not found:
        return None
    table = Table(title="hashed ids that share a row with another")
    for name in ("table", "features"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "ids", "of the ids", "of the lookups"):
        table.add_column(name, justify="right")
    for entry in found:
        about = "" if entry.is_counted else "about "
        shares = (f"{about}{share:.1%}" for share in (entry.share_of_ids, entry.share_of_lookups))
        table.add_row(entry.table, ", ".join(entry.features), f"{entry.rows:,}", f"{entry.ids:,}", *shares)
    return table
