"""A dataset that grows at its end keeps all rows where they were; any other change is refused by name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.discovery.dataset import read_manifest
from data.discovery.growth import grown
from data.errors import DataError
from data.manifest import Manifest
from data.order import order
from data.storage.manifest_file import load_manifest, save_manifest

WINDOWS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=5)
"""Rows of the row groups of each."""


def rows_of_lanes(windows: list[list[int]], lanes: int, seed: int) -> list[list[tuple[int, int]]]:
    rows = np.array([size for window in windows for size in window], np.int64)
    window = np.repeat(np.arange(len(windows)), [len(window) for window in windows])
    found = order(rows, window, name="chronological", seed=seed, epoch=0, lanes=lanes)
    segments = list(zip(found.group.tolist(), found.start.tolist(), found.stop.tolist(), strict=True))
    of_lane = [slice(*found.lane_begin[lane : lane + 2]) for lane in range(lanes)]
    return [[(group, row) for group, start, stop in segments[part] for row in range(start, stop)] for part in of_lane]


@given(known=WINDOWS, new=WINDOWS, lanes=st.integers(1, 7), seed=st.integers(0, 2**32))
def test_all_rows_stay_where_they_were(known: list[list[int]], new: list[list[int]], lanes: int, seed: int) -> None:
    before = rows_of_lanes(known, lanes, seed)
    after = rows_of_lanes(known + new, lanes, seed)
    assert [lane[: len(old)] for lane, old in zip(after, before, strict=True)] == before


# ---- files

LANES = 2
ROWS = 10
"""A day."""


def write_day(root: Path, day: int, start: int = 0, **more: list[int] | pa.Array) -> Path:
    folder = root / f"dt=2022-04-{day}"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = list(range(start, start + ROWS))
    pq.write_table(pa.table({"id": numbers, **more}), folder / "a.parquet", row_group_size=4)
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    for day in (8, 9, 10):  # in this order, unlike that of the paths
        write_day(tmp_path / "log", day)
    return tmp_path / "log"


def read(log: Path) -> Manifest:
    return read_manifest(str(log), cache=None)


def contents(manifest: Manifest) -> list[tuple[str, int, int]]:
    names = [manifest.files[file] for file in manifest.file]
    return list(zip(names, manifest.group.tolist(), manifest.rows.tolist(), strict=True))


def test_new_windows_follow(log: Path, tmp_path: Path) -> None:
    known = read(log)
    for day in (12, 11):
        write_day(log, day, more=list(range(ROWS)))
    found = grown(known, read(log), samples=0, lanes=LANES)
    assert contents(found)[: len(known.rows)] == contents(known)
    assert [name for name, _, _ in contents(found)[len(known.rows) :: 3]] == [
        "dt=2022-04-11/a.parquet",
        "dt=2022-04-12/a.parquet",
    ]
    assert found.window.tolist() == [2] * 3 + [0] * 3 + [1] * 3 + [3] * 3 + [4] * 3
    assert found.num_rows_without("more") == 3 * ROWS

    save_manifest(found, tmp_path / "saved.parquet")
    saved = load_manifest(tmp_path / "saved.parquet")
    assert saved.fingerprints == (found.fingerprint, known.fingerprint)
    assert grown(saved, read(log), samples=0, lanes=LANES) is saved


def test_it_grows_again_and_loses_what_was_trained(log: Path) -> None:
    first = read(log)
    write_day(log, 11)
    second = grown(first, read(log), samples=0, lanes=LANES)
    shutil.rmtree(log / "dt=2022-04-8")
    shutil.rmtree(log / "dt=2022-04-9")
    write_day(log, 12)
    third = grown(second, read(log), samples=2 * ROWS, lanes=LANES)
    assert third.num_rows == 5 * ROWS
    assert contents(third)[: len(second.rows)] == contents(second)
    assert third.fingerprints[1:] == (first.fingerprint, second.fingerprint)


def remove(*days: int) -> Callable[[Path], None]:
    return lambda log: [shutil.rmtree(log / f"dt=2022-04-{day}") for day in days] and None


def late_file(log: Path) -> None:
    shutil.copy(log / "dt=2022-04-10" / "a.parquet", log / "dt=2022-04-9" / "b.parquet")


def half_a_window(log: Path) -> None:
    shutil.copy(log / "dt=2022-04-8" / "a.parquet", log / "dt=2022-04-8" / "b.parquet")


REFUSED: list[tuple[str, Callable[[Path], object], str]] = [
    ("shrunk at the front", remove(8), "8/a.parquet is gone, but not all rows of its window have been trained"),
    ("shrunk in the middle", remove(9), "9/a.parquet is gone, but not all rows of its window have been trained"),
    ("shrunk at the end", remove(10), "10/a.parquet is gone, but not all rows of its window have been trained"),
    (
        "equal rows",
        lambda log: write_day(log, 9, start=100),
        "the contents of dt=2022-04-9/a.parquet changed (same number of rows and row groups); restore it",
    ),
    (
        "more rows",
        lambda log: pq.write_table(pa.table({"id": [1]}), log / "dt=2022-04-9" / "a.parquet"),
        "dt=2022-04-9/a.parquet has 1 rows in 1 row group, had 10 in 3; restore it",
    ),
    ("earlier window", lambda log: write_day(log, 7), "7/a.parquet is new, but not later than all that was known"),
    ("late file", late_file, "dt=2022-04-9/b.parquet is new, but not later than all that was known; move it into a"),
    ("renamed", lambda log: (log / "dt=2022-04-10").rename(log / "dt=2022-04-5"), "5/a.parquet is new, but not later"),
]


@pytest.mark.parametrize(("change", "message"), [entry[1:] for entry in REFUSED], ids=[entry[0] for entry in REFUSED])
def test_other_changes_are_refused(log: Path, change: Callable[[Path], object], message: str) -> None:
    known = read(log)
    change(log)
    with pytest.raises(DataError) as error:
        grown(known, read(log), samples=0, lanes=LANES)
    assert message in str(error.value)
    assert str(error.value).startswith(f"data.train = '{log}' has changed since the run began: ")


def test_a_window_is_trained_once_no_lane_has_a_row_of_it_left(log: Path) -> None:
    known = read(log)
    remove(8)(log)
    now = read(log)
    for samples, lanes, is_trained in (
        (ROWS - 2, 2, False),
        (ROWS, 2, True),
        (ROWS + 1, 3, False),
        (ROWS + 2, 3, True),
    ):
        if is_trained:
            assert grown(known, now, samples, lanes) is known
        else:
            with pytest.raises(DataError, match="not all rows of its window"):
                grown(known, now, samples, lanes)


def test_a_window_goes_as_a_whole(log: Path) -> None:
    half_a_window(log)
    known = read(log)
    (log / "dt=2022-04-8" / "a.parquet").unlink()
    with pytest.raises(DataError, match="but other files of its window are there; restore it, or remove the whole"):
        grown(known, read(log), samples=2 * ROWS, lanes=LANES)


def test_types_widen_and_windows_may_be_empty(log: Path) -> None:
    known = read(log)
    folder = write_day(log, 11)
    pq.write_table(pa.table({"id": pa.array([], pa.int64())}), folder / "a.parquet")
    assert grown(known, read(log), samples=0, lanes=LANES).num_rows == known.num_rows
    pq.write_table(pa.table({"id": pa.array([1.0, 2.0])}), write_day(log, 12) / "a.parquet")
    found = grown(known, read(log), samples=0, lanes=LANES)
    assert [str(found.schema_of(group).field("id").type) for group in (0, len(found.rows) - 1)] == ["int64", "double"]


def test_rows_keep_their_numbers(log: Path) -> None:
    known = read(log)
    write_day(log, 11)
    found = grown(known, read(log), samples=0, lanes=LANES)
    assert found.first_row[: len(known.rows)].tolist() == known.first_row.tolist()
