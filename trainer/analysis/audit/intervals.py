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
        start = first + offset
        stop = after + offset

        return Intervals(self.group[kept], start[kept], stop[kept], lane_row=first[kept])

    def in_group(self, group: int, start: int, stop: int) -> "Intervals":
        """What lies in the rows start … stop of a group's order."""
        first = np.maximum(self.start, start)
        after = np.minimum(self.stop, stop)
        kept = (self.group == group) & (first < after)

        lane_row = self.lane_row + first - self.start
        return Intervals(self.group[kept], first[kept], after[kept], lane_row[kept])

    def at(self, group: Int64, place: Int64, rows: Int64) -> "Intervals":
        """Single rows, by their group and place in its order, as far as they are here. `rows`: of each group."""
        if not len(self) or not len(group):
            return Intervals(*np.zeros((4, 0), np.int64))
        first_row = np.cumsum(rows) - rows
        by_start = np.argsort(first_row[self.group] + self.start, kind="stable")
        starts = (first_row[self.group] + self.start)[by_start]
        wanted = first_row[group] + place
        index = by_start[np.clip(np.searchsorted(starts, wanted, side="right") - 1, 0, None)]

        is_here = (self.group[index] == group) & (self.start[index] <= place) & (place < self.stop[index])
        lane_row = self.lane_row[index] + place - self.start[index]
        return Intervals(group[is_here], place[is_here], place[is_here] + 1, lane_row[is_here])

    @classmethod
    def join(cls, parts: Iterable["Intervals"]) -> "Intervals":
        """All of them."""
        joined = list(parts)
        columns: dict[str, Int64] = {}
        for field in fields(cls):
            arrays = [getattr(part, field.name) for part in joined]
            columns[field.name] = np.concatenate([np.zeros(0, np.int64), *arrays])
        return cls(**columns)


def intervals_of_epoch(reading: Reading, epoch: int) -> Intervals:
    """All that the lanes read in an epoch, and the rows after its last whole batch."""
    manifest = reading.manifest
    layout = order(
        manifest.rows, manifest.window, name=reading.order, seed=reading.seed, epoch=epoch, lanes=reading.lanes
    )
    ends = np.concatenate([[0], np.cumsum(layout.stop - layout.start)])
    # Pieces are numbered through all lanes; a piece's place in its own lane counts from where the lane begins.
    lane_starts = ends[layout.lane_begin[:-1]]
    pieces_per_lane = np.diff(layout.lane_begin)
    lane_row = ends[:-1] - np.repeat(lane_starts, pieces_per_lane)

    return Intervals(layout.group, layout.start, layout.stop, lane_row)


@dataclass(frozen=True)
class Cover:
    """How many rows lie in some intervals once, more often, and in any of those that are no training."""

    once: int = 0
    more: int = 0
    unreadable: int = 0
    bad_value: int = 0


def count(trained: Intervals, unreadable: Intervals, bad_value: Intervals, first_row: Int64) -> Cover:
    """Rows by how often they are trained; unreadable and bad ones are not. `first_row`: of each group, in all rows."""
    intervals = (trained, unreadable, bad_value)
    begins = [first_row[part.group] + part.start for part in intervals]
    ends = [first_row[part.group] + part.stop for part in intervals]
    points = np.unique(np.concatenate([*begins, *ends]))
    rows = np.diff(points)
    times = _depth(points, begins[0], ends[0])
    is_unreadable = _depth(points, begins[1], ends[1]) > 0
    is_bad = (_depth(points, begins[2], ends[2]) > 0) & ~is_unreadable
    is_read = ~is_unreadable & ~is_bad

    def total(where: NDArray[np.bool_]) -> int:
        return int(rows[where].sum())

    return Cover(
        once=total((times == 1) & is_read),
        more=total((times > 1) & is_read),
        unreadable=total((times > 0) & is_unreadable),
        bad_value=total((times > 0) & is_bad),
    )


def _depth(points: Int64, begin: Int64, end: Int64) -> Int64:
    """In how many of the intervals begin … end each stretch between two points lies."""
    opened = np.bincount(np.searchsorted(points, begin), minlength=len(points))
    closed = np.bincount(np.searchsorted(points, end), minlength=len(points))
    return np.cumsum(opened - closed)[:-1]


def expand(reading: Reading, epoch: int, intervals: Intervals) -> tuple[Int64, Int64]:
    """Every single row: the global batch of the epoch that it belongs to, and its number in the dataset."""
    first_row = reading.manifest.first_row
    sizes = reading.manifest.rows
    batches = [np.zeros(0, np.int64)]
    rows = [np.zeros(0, np.int64)]

    columns = (intervals.group, intervals.start, intervals.stop, intervals.lane_row)
    for group, start, stop, lane_row in zip(*(column.tolist() for column in columns), strict=True):
        chosen = np.arange(start, stop)
        shuffled = group_rows(
            group,
            int(sizes[group]),
            name=reading.order,
            seed=reading.seed,
            epoch=epoch,
            block_rows=reading.block_rows,
        )
        if shuffled is not None:
            chosen = shuffled[chosen]
        rows.append(first_row[group] + chosen)

        lane_rows = np.arange(lane_row, lane_row + stop - start)
        batches.append(lane_rows // reading.rows_per_lane)

    return np.concatenate(batches), np.concatenate(rows)
