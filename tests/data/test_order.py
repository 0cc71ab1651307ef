from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.hashing import Int64
from data.order import Order, OrderName, group_rows, order

NAMES: list[OrderName] = ["shuffled", "chronological", "stored"]
Groups = list[tuple[int, int]]
"""(rows, window) of each row group; a Parquet file may hold row groups without rows."""

exact = settings(max_examples=60)
groups_in_any_windows = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=12)
groups = groups_in_any_windows.map(lambda found: sorted(found, key=lambda entry: entry[1]))
lane_counts = st.integers(1, 8)


def arrays(found: Groups) -> tuple[Int64, Int64]:
    rows, window = np.array(found, np.int64).reshape(-1, 2).T
    return rows, window


def lay_out(found: Groups, name: OrderName, lanes: int, seed: int = 17, epoch: int = 0) -> Order:
    return order(*arrays(found), name=name, seed=seed, epoch=epoch, lanes=lanes)


def lane_segments(layout: Order, lane: int) -> list[tuple[int, int, int]]:
    part = slice(layout.lane_begin[lane], layout.lane_begin[lane + 1])
    columns = (layout.group[part].tolist(), layout.start[part].tolist(), layout.stop[part].tolist())
    return list(zip(*columns, strict=True))


def lane_rows(layout: Order, lane: int) -> list[tuple[int, int]]:
    """(group, row) of everything a lane reads, in its order."""
    return [(group, row) for group, start, stop in lane_segments(layout, lane) for row in range(start, stop)]


def all_rows(found: Groups) -> list[tuple[int, int]]:
    return [(group, row) for group, (rows, _) in enumerate(found) for row in range(rows)]


def as_lists(layout: Order) -> list[Any]:
    return [array.tolist() for array in astuple(layout)]


@exact
@given(groups_in_any_windows, st.sampled_from(NAMES), lane_counts, st.integers(0, 3), st.integers(0, 3))
@example([], "chronological", 3, 0, 0)
@example([(0, 0)], "shuffled", 3, 0, 0)
@example([(0, 0), (1, 2), (0, 3)], "chronological", 8, 0, 0)
def test_every_row_is_read_once(found: Groups, name: OrderName, lanes: int, seed: int, epoch: int) -> None:
    layout = lay_out(found, name, lanes, seed, epoch)
    read = [row for lane in range(lanes) for row in lane_rows(layout, lane)]
    assert sorted(read) == all_rows(found)
    assert len(layout.lane_begin) == lanes + 1
    assert layout.lane_begin[-1] == len(layout.group)
    assert (layout.start < layout.stop).all()


@exact
@given(groups_in_any_windows, st.sampled_from(NAMES), lane_counts)
def test_lanes_are_of_equal_length(found: Groups, name: OrderName, lanes: int) -> None:
    layout = lay_out(found, name, lanes)
    lengths = [len(lane_rows(layout, lane)) for lane in range(lanes)]
    assert max(lengths) - min(lengths) <= 1


@exact
@given(groups_in_any_windows, lane_counts)
def test_windows_ascend_in_every_lane(found: Groups, lanes: int) -> None:
    layout = lay_out(found, "chronological", lanes)
    for lane in range(lanes):
        windows = [found[group][1] for group, _, _ in lane_segments(layout, lane)]
        assert windows == sorted(windows)


@exact
@given(groups, lane_counts)
def test_every_lane_takes_its_share_of_every_window(found: Groups, lanes: int) -> None:
    layout = lay_out(found, "chronological", lanes)
    shares = np.zeros((lanes, 4), np.int64)
    for lane in range(lanes):
        for group, start, stop in lane_segments(layout, lane):
            shares[lane, found[group][1]] += stop - start
    so_far = shares.cumsum(axis=1)
    assert (so_far.max(axis=0) - so_far.min(axis=0) <= 1).all()


@exact
@given(groups, st.sampled_from(NAMES), lane_counts)
def test_a_group_is_cut_at_lane_ends_only(found: Groups, name: OrderName, lanes: int) -> None:
    """Or a segment would be decoded for nothing: at most one cut per lane and window is needed."""
    layout = lay_out(found, name, lanes)
    windows = len({window for _, window in found}) if name == "chronological" else 1
    assert len(layout.group) <= sum(rows > 0 for rows, _ in found) + windows * (lanes - 1)


@exact
@given(groups, lane_counts)
def test_stored_is_the_order_of_the_files(found: Groups, lanes: int) -> None:
    layout = lay_out(found, "stored", lanes)
    assert [row for lane in range(lanes) for row in lane_rows(layout, lane)] == all_rows(found)


@exact
@given(groups, st.sampled_from(NAMES), lane_counts)
def test_equal_arguments_give_equal_orders(found: Groups, name: OrderName, lanes: int) -> None:
    rows, window = arrays(found)
    before = rows.copy(), window.copy()
    first = as_lists(order(rows, window, name=name, seed=3, epoch=1, lanes=lanes))
    np.random.seed(0)  # the legacy state is what must not matter
    state = repr(np.random.get_state())
    assert as_lists(order(rows, window, name=name, seed=3, epoch=1, lanes=lanes)) == first
    assert repr(np.random.get_state()) == state
    assert [rows.tolist(), window.tolist()] == [array.tolist() for array in before]


@exact
@given(groups, lane_counts, st.integers(0, 5))
def test_stored_knows_neither_seed_nor_epoch(found: Groups, lanes: int, other: int) -> None:
    assert as_lists(lay_out(found, "stored", lanes)) == as_lists(lay_out(found, "stored", lanes, other, other))


@pytest.mark.parametrize("name", ["shuffled", "chronological"])
def test_each_seed_and_epoch_has_its_own_order(name: OrderName) -> None:
    found = [(5, window) for window in (0, 1) for _ in range(20)]
    layouts = [lay_out(found, name, 2, seed, epoch).group.tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(layout) for layout in layouts}) == 9


def test_the_cut_follows_the_permuted_groups() -> None:
    """The lanes only divide the sequence: laid end to end they are the same for every number of them."""
    found = [(size, 0) for size in (3, 7, 1, 0, 12, 5)]
    whole = lane_rows(lay_out(found, "shuffled", 1), 0)
    for lanes in (2, 4, 8):
        layout = lay_out(found, "shuffled", lanes)
        assert [row for lane in range(lanes) for row in lane_rows(layout, lane)] == whole


def test_golden_order() -> None:
    """A run that is resumed under other versions of the libraries must find the order that it began with."""
    found = [(3, 0), (5, 0), (0, 1), (4, 1), (2, 1)]
    shuffled, chronological = lay_out(found, "shuffled", 2), lay_out(found, "chronological", 2, epoch=3)
    assert lane_segments(shuffled, 0) == [(4, 0, 2), (3, 0, 4), (0, 0, 1)]
    assert lane_segments(shuffled, 1) == [(0, 1, 3), (1, 0, 5)]
    assert lane_segments(chronological, 0) == [(0, 0, 3), (1, 0, 1), (3, 0, 3)]
    assert lane_segments(chronological, 1) == [(1, 1, 5), (3, 3, 4), (4, 0, 2)]


@exact
@given(st.integers(0, 20), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_shuffling_permutes_the_rows_of_a_group(rows: int, group: int, seed: int, epoch: int) -> None:
    found = group_rows(group, rows, name="shuffled", seed=seed, epoch=epoch)
    assert found is not None
    assert sorted(found.tolist()) == list(range(rows))
    assert found.tolist() == group_rows(group, rows, name="shuffled", seed=seed, epoch=epoch).tolist()  # type: ignore[union-attr]


def test_every_group_seed_and_epoch_permutes_its_own_way() -> None:
    keys = [(group, seed, epoch) for group in range(3) for seed in range(3) for epoch in range(3)]
    found = [group_rows(group, 30, name="shuffled", seed=seed, epoch=epoch) for group, seed, epoch in keys]
    assert len({tuple(rows.tolist()) for rows in found if rows is not None}) == 27


@pytest.mark.parametrize("name", ["chronological", "stored"])
def test_other_orders_keep_the_rows_of_a_group(name: OrderName) -> None:
    assert group_rows(0, 5, name=name, seed=1, epoch=2) is None
