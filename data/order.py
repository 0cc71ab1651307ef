"""The global order of a pass over a dataset: a pure function of (row groups, seed, epoch, lanes).

    row groups            ┌─A─┐┌──B──┐┌─C─┐┌────D────┐
    permuted              ┌──B──┐┌────D────┐┌─A─┐┌─C─┐        (inside each time window, where one is kept)
    cut into 2 equal lanes   lane 0: B D₀      lane 1: D₁ A C

Global batch k takes the next `global_batch_size / lanes` rows of every lane. Rank r of W serves lanes
r·lanes/W … (r+1)·lanes/W - 1. So a batch holds the same rows for every W that divides `lanes`, all ranks have the
same number of batches, and a position in the data is one integer. Where rows are shuffled, the rows inside a row group
are permuted too, since logs are written in time order: all together, or block by block in a row group that is larger
than `block_rows` (`block_order`), so that it never has to be in memory as a whole.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.hashing import Int64, permutation

OrderName = Literal["shuffled", "chronological", "stored"]
"""shuffled: row groups and the rows inside them. chronological: row groups inside a time window (a directory of the
dataset, or a file where it has none); windows in the order of `data.discovery.windows`. stored: as the files are."""


@dataclass(frozen=True)
class Order:
    """Segments of row groups: all of lane 0 in reading order, then all of lane 1, …; arrays of one entry a segment."""

    group: Int64
    start: Int64
    """First row of the segment, in the group's own order (`group_rows`)."""
    stop: Int64
    lane_begin: Int64
    """[lanes + 1]: lane l holds the segments lane_begin[l] … lane_begin[l + 1] - 1."""


def order(rows: Int64, window: Int64, *, name: OrderName, seed: int, epoch: int, lanes: int) -> Order:
    """Order of one pass. `rows`: rows of each group; `window`: number of its time window; both in path order."""
    sequence = _sequence(len(rows), window, name, seed, epoch)
    kept_windows = window if name == "chronological" else np.zeros_like(window)
    cuts, cut_lane = _lane_cuts(rows, kept_windows, lanes)

    # Row groups laid end to end, cut wherever one ends or a lane's share does: each stretch between is a segment.
    group_end = np.cumsum(rows[sequence])
    group_begin = group_end - rows[sequence]
    edges = np.unique(np.concatenate([[0], group_end, cuts]))
    begin = edges[:-1]
    end = edges[1:]

    index = np.searchsorted(group_end, begin, side="right")
    lane = cut_lane[np.searchsorted(cuts, begin, side="right")]
    by_lane = np.argsort(lane, kind="stable")

    start = begin - group_begin[index]
    stop = end - group_begin[index]
    return Order(
        group=sequence[index][by_lane],
        start=start[by_lane],
        stop=stop[by_lane],
        lane_begin=np.searchsorted(lane[by_lane], np.arange(lanes + 1)),
    )


def block_of(row: int, rows: int, block_rows: int | None) -> range:
    """The block of a row group's row: the group is cut into equal blocks of up to `block_rows` rows (None: is one)."""
    size = rows
    if block_rows is not None:
        num_blocks = -(-rows // block_rows)
        size = -(-rows // num_blocks)
    begin = row - row % size
    return range(begin, min(begin + size, rows))


def block_order(group: int, block: range, rows: int, *, name: OrderName, seed: int, epoch: int) -> Int64 | None:
    """The order in which the rows of a block of a group are handed out, by their place in it; None: as stored."""
    return _permuted(group, block, rows, seed, epoch) if name == "shuffled" else None


def group_rows(
    group: int, rows: int, *, name: OrderName, seed: int, epoch: int, block_rows: int | None = None
) -> Int64 | None:
    """The order in which the rows of a group are handed out, one block after the other; None: as they are stored."""
    if name != "shuffled":
        return None
    places = [np.zeros(0, np.int64)]
    begin = 0
    while begin < rows:
        block = block_of(begin, rows, block_rows)
        places.append(begin + _permuted(group, block, rows, seed, epoch))
        begin = block.stop
    return np.concatenate(places)


def _permuted(group: int, block: range, rows: int, seed: int, epoch: int) -> Int64:
    key = () if len(block) == rows else (block.start,)
    return permutation(len(block), seed, "rows", epoch, group, *key)


def _sequence(num_groups: int, window: Int64, name: OrderName, seed: int, epoch: int) -> Int64:
    if name == "stored":
        return np.arange(num_groups)
    shuffled = permutation(num_groups, seed, "groups", epoch)
    if name == "shuffled":
        return shuffled
    return shuffled[np.argsort(window[shuffled], kind="stable")]


def _lane_cuts(rows: Int64, window: Int64, lanes: int) -> tuple[Int64, Int64]:
    """Ends of the lanes' shares in the laid-out sequence, and whose share each one is; windows one after the other.

    After N rows lane l has had (N + l) // lanes of them: the shares of all lanes add up to N (Hermite's identity), and
    they stay within one row of each other whatever the sizes of the windows.
    """
    window_end = np.cumsum(np.bincount(window, weights=rows).astype(np.int64))
    had = (window_end[:, None] + np.arange(lanes)) // lanes
    share = np.diff(had, axis=0, prepend=0)
    lane_of_share = np.tile(np.arange(lanes), len(window_end))
    return np.cumsum(share.ravel()), lane_of_share
