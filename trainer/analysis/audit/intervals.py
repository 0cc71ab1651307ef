"""Rows of an epoch as intervals of row groups, and how often each is covered; arrays of one entry an interval."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from data.hashing import Int64
from data.order import group_rows, order
from data.reading import Reading


@dataclass(frozen=True, eq=False)
class Intervals:
    """Rows start … stop of each group's own order (`data.order.group_rows`), as lanes read them."""

    group: Int64
    start: Int64
    stop: Int64
    lane_row: Int64
    """Row of its lane at which each interval begins."""

    def __len__(self) -> int:
        return len(self.group)

    def in_lane(self, begin: int, end: int) -> "Intervals":
        """What the rows begin … end of every lane hold."""
        first = np.maximum(self.lane_row, begin)
        after = np.minimum(self.lane_row + self.stop - self.start, end)
        kept = first < after
        offset = self.start - self.lane_row
        return Intervals(self.group[kept], (first + offset)[kept], (after + offset)[kept], first[kept])

    def in_group(self, group: int, start: int, stop: int) -> "Intervals":
        """What lies in the rows start … stop of a group's order."""
        first, after = np.maximum(self.start, start), np.minimum(self.stop, stop)
        kept = (self.group == group) & (first < after)
        return Intervals(self.group[kept], first[kept], after[kept], (self.lane_row + first - self.start)[kept])

    @classmethod
    def join(cls, parts: Iterable["Intervals"]) -> "Intervals":
        """All of them."""
        found = list(parts)
        nothing = np.zeros(0, np.int64)
        return cls(
            *(np.concatenate([nothing, *(getattr(part, field.name) for part in found)]) for field in fields(cls))
        )


def intervals_of_epoch(reading: Reading, epoch: int) -> Intervals:
    """All that the lanes read in an epoch, and the rows after its last whole batch."""
    manifest = reading.manifest
    layout = order(
        manifest.rows, manifest.window, name=reading.order, seed=reading.seed, epoch=epoch, lanes=reading.lanes
    )
    ends = np.concatenate([[0], np.cumsum(layout.stop - layout.start)])
    lane_start = np.repeat(ends[layout.lane_begin[:-1]], np.diff(layout.lane_begin))

    return Intervals(layout.group, layout.start, layout.stop, ends[:-1] - lane_start)


@dataclass(frozen=True)
class Cover:
    """How many rows lie in some intervals once, more often, and in any of the excepted ones."""

    once: int
    more: int
    excepted: int


def count(trained: Intervals, excepted: Intervals, first_row: Int64) -> Cover:
    """Rows by how often they are trained; excepted ones are not. `first_row`: of each group, in the dataset."""
    begins = [first_row[part.group] + part.start for part in (trained, excepted)]
    ends = [first_row[part.group] + part.stop for part in (trained, excepted)]
    points = np.unique(np.concatenate([*begins, *ends]))
    rows = np.diff(points)
    times, exceptions = (_depth(points, begin, end) for begin, end in zip(begins, ends, strict=True))

    def total(where: NDArray[np.bool_]) -> int:
        return int(rows[where].sum())

    return Cover(
        once=total((times == 1) & (exceptions == 0)),
        more=total((times > 1) & (exceptions == 0)),
        excepted=total((times > 0) & (exceptions > 0)),
    )


def _depth(points: Int64, begin: Int64, end: Int64) -> Int64:
    """In how many of the intervals begin … end each stretch between two points lies."""
    opened = np.bincount(np.searchsorted(points, begin), minlength=len(points))
    closed = np.bincount(np.searchsorted(points, end), minlength=len(points))
    return np.cumsum(opened - closed)[:-1]


def expand(reading: Reading, epoch: int, intervals: Intervals) -> tuple[Int64, Int64]:
    """Every single row: the global batch of the epoch that it belongs to, and its number in the dataset."""
    first_row, sizes = reading.manifest.first_row, reading.manifest.rows
    batches, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]

    for index, group in enumerate(intervals.group.tolist()):
        start, stop, lane_row = (int(array[index]) for array in (intervals.start, intervals.stop, intervals.lane_row))
        places = group_rows(group, int(sizes[group]), name=reading.order, seed=reading.seed, epoch=epoch)
        rows.append(first_row[group] + (np.arange(start, stop) if places is None else places[start:stop]))
        batches.append(np.arange(lane_row, lane_row + stop - start) // reading.rows_per_lane)

    return np.concatenate(batches), np.concatenate(rows)
