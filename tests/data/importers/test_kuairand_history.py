import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.importers.kuairand_history import ENTITIES, HISTORY_COLUMNS, STATISTICS, history_features

TRAIN_DAYS = (20220429, 20220430, 20220501)
TEST_DAYS = (20220502, 20220503)
DAYS = TRAIN_DAYS + TEST_DAYS
Row = dict[str, Any]

SCHEMA = pa.schema(
    [(name, pa.int64()) for name in ("date", "is_rand", "user_id", "video_id", "author_id")]
    + [(name, pa.int64()) for name in ("is_click", "long_view", "is_like", "is_profile_enter")]
    + [("play_time_log1p", pa.float64())]
)


def impression(day: int, user: int, video: int, author: int | None, **values: float) -> Row:
    """A row with all outcomes 0, on the given position of DAYS."""
    ids = {"date": DAYS[day], "is_rand": 0, "user_id": user, "video_id": video, "author_id": author}
    return dict.fromkeys((statistic.outcome for statistic in STATISTICS), 0) | ids | values


def features(rows: Sequence[Row], train_days: Sequence[int] = TRAIN_DAYS) -> list[Row]:
    """The history of each row."""
    return pa.table(history_features(pa.Table.from_pylist(rows, SCHEMA), train_days)).to_pylist()


FIRST_DAY = [
    impression(0, 1, 11, 101, is_click=1, long_view=1, play_time_log1p=3.0),
    impression(0, 1, 12, 101, is_like=1),
    impression(0, 2, 11, 101, play_time_log1p=1.0),
    impression(0, 2, 13, None),
]


def test_by_hand() -> None:
    later = [impression(1, 1, 11, 101, is_click=1), impression(2, 1, 11, 101), impression(3, 9, 13, None)]
    found = features(FIRST_DAY + later)
    # Everyone on the first day: 1/4 clicked, 1/4 viewed long, 1/4 liked, none opened a profile, mean play 1.
    expected = {
        **{"user_seen": 2.0, "user_click_per_1000": 1000 * (1 + 2.5) / 12, "user_like_per_1000": 1000 * (1 + 2.5) / 12},
        **{"user_play_time_log1p_mean": (3 + 10) / 12, "user_profile_enter_per_1000": 0.0},
        **{"video_seen": 2.0, "video_click_per_1000": 1000 * (1 + 5) / 22, "video_like_per_1000": 1000 * (0 + 5) / 22},
        **{"author_seen": 3.0, "author_long_view_per_1000": 1000 * (1 + 5) / 23},
        "author_play_time_log1p_mean": (4 + 20) / 23,
    }
    assert {name: found[4][name] for name in expected} == pytest.approx(expected)
    # On the third day everyone's click rate is 2/5, and the second day's click is the user's.
    assert found[5]["user_seen"] == 3.0
    assert found[5]["user_click_per_1000"] == pytest.approx(1000 * (2 + 4) / 13)
    # A user never seen is like everyone: 2 clicks in 6 impressions of the training days.
    assert found[6]["user_seen"] == 0.0
    assert found[6]["user_click_per_1000"] == pytest.approx(1000 * 2 / 6)


def test_the_first_day_has_no_history() -> None:
    seen = {"user_seen", "video_seen", "author_seen"}
    for row in features(FIRST_DAY):
        assert {row[name] for name in seen} == {0.0}
        assert {value for name, value in row.items() if name not in seen} == {None}


def test_a_video_without_author_has_no_author_history() -> None:
    row = features([*FIRST_DAY, impression(1, 2, 13, None)])[-1]
    assert (row["video_seen"], row["author_seen"]) == (1.0, 0.0)
    assert {row[f"author_{statistic.suffix}"] for statistic in STATISTICS} == {None}
    assert row["video_click_per_1000"] == pytest.approx(1000 * 5 / 21)


def test_an_impression_at_random_has_a_history_but_is_in_none() -> None:
    at_random = [impression(0, 1, 11, 101, is_rand=1, is_click=1), impression(1, 1, 11, 101, is_rand=1, is_like=1)]
    later = [impression(1, 1, 11, 101), impression(3, 1, 11, 101)]
    without, with_random = features(FIRST_DAY + later), features(FIRST_DAY + at_random + later)
    assert with_random[-2:] == without[-2:]
    assert with_random[5] == with_random[6]  # of the same user and video on the same day


def test_columns_are_described_and_float32() -> None:
    found = history_features(pa.Table.from_pylist(FIRST_DAY, SCHEMA), TRAIN_DAYS)
    assert list(found) == [column.name for column in HISTORY_COLUMNS]
    assert {values.type for values in found.values()} == {pa.float32()}
    assert {(column.type, column.role) for column in HISTORY_COLUMNS} == {("float", "feature")}
    assert all(column.description.endswith("only earlier days are used.") for column in HISTORY_COLUMNS)


BIT = st.integers(0, 1)
ROWS = st.lists(
    st.builds(
        impression,
        st.integers(0, len(DAYS) - 1),
        user=st.integers(1, 4),
        video=st.integers(1, 4),
        author=st.sampled_from([None, 7, 8]),
        is_rand=st.sampled_from([0, 0, 0, 1]),
        is_click=BIT,
        long_view=BIT,
        is_like=BIT,
        is_profile_enter=BIT,
        play_time_log1p=st.floats(0, 8, width=32),
    ),
    min_size=1,
    max_size=30,
)


def loop_features(rows: Sequence[Row], row: Row) -> Row:
    """The history of one row, from its definition."""
    earlier = [old for old in rows if old["date"] < row["date"] and old["date"] in TRAIN_DAYS and not old["is_rand"]]
    found: Row = {}
    for entity in ENTITIES:
        own_id = row[entity.id_column]
        own = [old for old in earlier if own_id is not None and old[entity.id_column] == own_id]
        found[f"{entity.name}_seen"] = len(own)
        for statistic in STATISTICS:
            mean = smoothed(earlier, own, statistic.outcome, entity.prior_impressions)
            missing = mean is None or own_id is None
            found[f"{entity.name}_{statistic.suffix}"] = None if missing else mean * statistic.factor
    return found


def smoothed(earlier: Sequence[Row], own: Sequence[Row], outcome: str, prior: int) -> float | None:
    if not earlier:
        return None
    everyones = math.fsum(old[outcome] for old in earlier) / len(earlier)
    return (math.fsum(old[outcome] for old in own) + prior * everyones) / (len(own) + prior)


@given(ROWS)
def test_equals_a_plain_loop(rows: list[Row]) -> None:
    found = features(rows)
    for row, history in zip(rows, found, strict=True):
        expected = loop_features(rows, row)
        assert history.keys() == expected.keys()
        assert without_nulls(history) == pytest.approx(without_nulls(expected), rel=1e-6)


def without_nulls(history: Row) -> Row:
    return {name: value for name, value in history.items() if value is not None}


@given(ROWS, st.integers(0, len(DAYS) - 1), st.floats(0, 8, width=32))
def test_outcomes_of_a_day_reach_only_later_days_and_those_of_test_days_none(
    rows: list[Row], day: int, play_time: float
) -> None:
    changed = [with_other_outcomes(row, play_time) if row["date"] == DAYS[day] else row for row in rows]
    before, after = features(rows), features(changed)
    for row, old, new in zip(rows, before, after, strict=True):
        if DAYS[day] in TEST_DAYS or row["date"] <= DAYS[day]:
            assert old == new


@given(ROWS)
def test_rows_of_test_days_could_as_well_be_absent(rows: list[Row]) -> None:
    kept = [row for row in rows if row["date"] in TRAIN_DAYS]
    found = features(rows)
    assert features(kept) == [history for row, history in zip(rows, found, strict=True) if row["date"] in TRAIN_DAYS]


def with_other_outcomes(row: Row, play_time: float) -> Row:
    flags = {name: 1 - row[name] for name in ("is_click", "long_view", "is_like", "is_profile_enter")}
    return row | flags | {"play_time_log1p": play_time}


def test_a_days_outcomes_do_reach_later_training_days() -> None:
    rows = [*FIRST_DAY, impression(1, 1, 11, 101)]
    changed = [with_other_outcomes(row, 5.0) for row in FIRST_DAY] + rows[-1:]
    for statistic in STATISTICS:
        for entity in ENTITIES:
            name = f"{entity.name}_{statistic.suffix}"
            assert features(rows)[-1][name] != features(changed)[-1][name]
