"""How many ids of a hashed table share a row with another: a warning before any training.

`n` ids hashed into `rows` rows: an id has its row to itself with probability (1 - 1/rows)^(n - 1).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from data.columns.decode import Columns
from data.columns.ids import Integers
from data.discovery.footer import UnreadableError
from data.features import Features
from data.manifest import read_schema
from data.pipeline.blocks import read_rows
from data.pipeline.row_groups import tasks_of_epoch
from data.reading import Reading

SAMPLE_ROWS = 1 << 18
"""Training rows from which the number of ids is estimated."""
TOLD_SHARE = 0.01
"""Of ids that share a row; fewer are not worth a word."""
GOOD_SHARE = 0.05
"""More is warned of."""
_APART = 1 << 62
"""Rows of a table so large that no two ids share one."""


@dataclass(frozen=True)
class Crowding:
    """How crowded one table is."""

    table: str
    rows: int
    ids: int
    source: str
    """Where `ids` comes from, in words."""
    hashes: int = 1
    """Rows of each id."""

    @property
    def share(self) -> float:
        """Expected share of the ids, and of the lookups, that meet others in all of their rows."""
        if self.rows <= 1:
            return float(self.ids > 1)

        # 1 - (1 - 1/rows)^(ids - 1), without loss of digits where it is small
        log_alone = self.hashes * max(self.ids - 1, 0) * math.log1p(-1 / self.rows)
        return float((-math.expm1(log_alone)) ** self.hashes)

    @property
    def is_bad(self) -> bool:
        """Whether the share is above `GOOD_SHARE`."""
        return self.share > GOOD_SHARE

    @property
    def good_rows(self) -> int:
        """Rows with which the share would be `GOOD_SHARE`, rounded up to two digits."""
        share_of_rows = GOOD_SHARE ** (1 / self.hashes)
        needed = -self.hashes * self.ids / math.log1p(-share_of_rows)
        unit = 10 ** max(int(math.log10(needed)) - 1, 0)
        return math.ceil(needed / unit) * unit

    def __str__(self) -> str:
        sizes = f"table {self.table!r} has {self.rows:,} rows for {self.ids:,} ids ({self.source})"
        share = f"about {self.share:.0%} of them, and of the lookups, are taken for another id, whose row they share"
        advice = f"; rows = {self.good_rows:_} makes it {GOOD_SHARE:.0%}" if self.is_bad else ""
        return f"{sizes}: {share}{advice}"


def crowded_tables(reading: Reading) -> list[Crowding]:
    """The tables with hashed ids in which more than `TOLD_SHARE` of them share rows."""
    return [entry for entry in hashed_tables(reading) if entry.share > TOLD_SHARE]


def hashed_tables(reading: Reading) -> list[Crowding]:
    """What is known of each table with hashed ids, from `schema.json` or else the first rows of training."""
    hashed = tuple(feature for feature in reading.columns.features.sparse if feature.is_hashed)
    if not hashed:
        return []

    described = read_schema(reading.manifest)
    parts: dict[str, list[Integers]] = {feature.table: [] for feature in hashed}
    sampled_rows = 0

    for rows, arrays in _first_ids(reading, Features(sparse=hashed)):
        sampled_rows += rows
        for feature, values in zip(hashed, arrays, strict=True):
            parts[feature.table].append(values)

    found = []
    for table, sample in parts.items():
        columns = [described.get(feature.column) for feature in hashed if feature.table == table]
        cardinalities = [column.cardinality if column is not None else None for column in columns]
        known = [cardinality for cardinality in cardinalities if cardinality is not None]
        if len(known) == len(columns):
            num_ids = max(known)
            source = "schema.json"
        else:
            all_rows = reading.batches_per_epoch * reading.global_batch_size
            num_ids, source = estimate_ids(sample, sampled_rows, all_rows)

        num_rows = reading.columns.table_rows[table]
        hashes = min(feature.hashes for feature in hashed if feature.table == table)
        found.append(Crowding(table, num_rows, num_ids, source, hashes))

    return found


def estimate_ids(parts: Iterable[Integers], sampled_rows: int, all_rows: int) -> tuple[int, str]:
    """How many different ids a dataset has, from those of some of its rows, and how good that is, in words.

    The numbers of ids seen once and twice tell how many were not seen (Chao, Scandinavian Journal of Statistics 11,
    1984). It is a lower bound where some ids are much rarer than others, as they are in logs.
    """
    ids = np.concatenate([np.zeros(0, np.int64), *parts])
    counts = np.unique(ids, return_counts=True)[1]
    if sampled_rows >= all_rows:
        return len(counts), "all rows"

    once = int((counts == 1).sum())
    twice = int((counts == 2).sum())
    unseen = once * (once - 1) // (2 * (twice + 1))
    most_unseen = len(ids) * (all_rows - sampled_rows) // max(sampled_rows, 1)

    return len(counts) + min(unseen, most_unseen), f"at least, estimated from {sampled_rows:,} rows"


def _first_ids(reading: Reading, features: Features) -> Iterator[tuple[int, list[Integers]]]:
    """Rows, and the ids of each feature in them, a row group at a time; what cannot be read is left out."""
    apart = Columns(features, dict.fromkeys(reading.columns.table_rows, _APART), ())
    reading = replace(reading, columns=apart)
    left = SAMPLE_ROWS
    share = -(-SAMPLE_ROWS // reading.lanes)

    for task in tasks_of_epoch(reading, range(reading.lanes), 0, 0):
        if left <= 0:
            return
        try:
            stop = min(task.stop, task.start + share)
            rows = read_rows(reading, replace(task, stop=stop))
        except UnreadableError:  # an error, or left out, where its batch is read
            continue

        left -= len(rows)
        yield len(rows), [ids.values for ids in rows.ids]
