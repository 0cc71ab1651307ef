"""Files that are truncated, corrupt, gone or changed: an error of one line, or padding in exactly their place."""

import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.columns.decode import Columns
from data.discovery.dataset import read_manifest
from data.discovery.footer import UnreadableError
from data.errors import DataError
from data.features import Features, SparseFeature
from data.manifest import Manifest, OnBadFile
from data.order import OrderName
from data.pipeline.account import SkippedRows
from data.pipeline.row_groups import read_row_group, tasks_of_epoch
from data.reading import Reading
from data.stream import BatchStream, stream
from tests.data.test_stream import (
    NAMES,
    PADDING,
    SCHEMA,
    Row,
    assert_no_thread_is_left,
    empty,
    make_row,
    rank_lanes,
    reading_of,
    rows_of,
    set_value,
    take,
    truncate,
    write_files,
)

BAD_FILE = "day=2/x/a.parquet"
BAD_GROUPS = range(7, 11)
"""Its row groups in the dataset."""
BAD_ROWS = range(22, 31)
Damage = Callable[[Path], object]
Result = TypeVar("Result")


def with_wrong_types(path: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    index = table.schema.get_field_index("user")
    rewrite(path, table.set_column(index, "user", table["user"].cast(pa.int64())))


def with_short_last_group(path: Path) -> None:
    rewrite(path, pq.read_table(path, partitioning=None).slice(0, 6))


def rewrite(path: Path, table: pa.Table) -> None:
    with pq.ParquetWriter(path, table.schema) as writer:
        for start, stop in pairwise([0, 1, 2, 3, 9]):
            writer.write_table(table.slice(start, stop - start))


DAMAGES: list[Damage] = [truncate, empty, Path.unlink, with_wrong_types]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_files(tmp_path / "dataset")


def skipping(manifest: Manifest, order: OrderName = "shuffled", **changes: object) -> Reading:
    return reading_of(manifest, order=order, on_bad_file="skip", **changes)


def take_all(batches: BatchStream, count: int) -> list[list[Row]]:
    try:
        return [rows_of(next(batches)) for _ in range(count)]
    finally:
        batches.close()


def padded(batches: list[list[Row]], bad: range) -> list[list[Row]]:
    return [[PADDING if row.number in bad else row for row in batch] for batch in batches]


# ---- found while training


@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_rows_that_cannot_be_read_are_padding_and_all_others_stay_in_place(
    dataset: Path, order: OrderName, damage: Damage
) -> None:
    """In two passes, on one rank and on two."""
    reading = skipping(read_manifest(str(dataset), cache=None), order)
    expected = padded(take(reading, range(4), 0, 14), BAD_ROWS)
    damage(dataset / BAD_FILE)
    assert take(reading, range(4), 0, 14) == expected
    ranks = [take(reading, rank_lanes(reading, rank, 2), 0, 14) for rank in range(2)]
    assert [left + right for left, right in zip(*ranks, strict=True)] == expected
    assert take(reading, range(4), 5 * 8, 4) == expected[5:9]


@pytest.mark.parametrize("order", NAMES)
def test_what_was_skipped_is_listed(dataset: Path, order: OrderName) -> None:
    reading = skipping(read_manifest(str(dataset), cache=None), order)
    (dataset / BAD_FILE).unlink()
    batches = stream(reading, range(4), 0)
    take_all(batches, 7)
    tasks = [task for task in tasks_of_epoch(reading, range(4), 0, 0) if task.group in BAD_GROUPS]
    expected = {(task.group - BAD_GROUPS[0], task.start, task.stop) for task in tasks}
    first_pass = [entry for entry in batches.account.skipped if entry.epoch == 0]
    assert {(entry.row_group, entry.start, entry.stop) for entry in first_pass} == expected
    assert len(first_pass) == len(expected)
    assert {entry.file for entry in batches.account.skipped} == {BAD_FILE}
    assert {entry.reason for entry in first_pass} == {first_pass[0].reason}
    assert first_pass[0].reason.startswith("cannot be read (")
    assert "\n" not in first_pass[0].reason


def test_one_bad_row_group_spares_the_others_of_its_file(dataset: Path) -> None:
    reading = skipping(read_manifest(str(dataset), cache=None), "stored", keep_last=True)
    expected = take(reading, range(4), 0, None)
    with_short_last_group(dataset / BAD_FILE)
    batches = stream(reading, range(4), 0)
    assert take_all(batches, 8) == padded(expected, range(25, 31))
    reason = "has 3 rows, but had 6 when the dataset was opened"
    assert sorted(batches.account.skipped, key=lambda entry: entry.start) == [
        SkippedRows(0, BAD_FILE, 3, 0, 5, reason),  # a lane ends inside the group
        SkippedRows(0, BAD_FILE, 3, 5, 6, reason),
    ]


def test_nothing_is_listed_where_nothing_is_wrong(dataset: Path) -> None:
    batches = stream(skipping(read_manifest(str(dataset), cache=None)), range(4), 0)
    take_all(batches, 14)
    assert batches.account.skipped == []


@pytest.mark.parametrize("on_bad_file", get_args(OnBadFile))
def test_a_wrong_value_is_an_error_in_both_modes(tmp_path: Path, on_bad_file: OnBadFile) -> None:
    write_files(tmp_path, set_value(29, "click", 2))
    reading = reading_of(read_manifest(str(tmp_path), cache=None), keep_last=True, on_bad_file=on_bad_file)
    with pytest.raises(DataError, match=r"row 4 of row group 3 of .*: label 'click' is 2; "):
        take(reading, range(4), 0, None)
    assert_no_thread_is_left()


def test_a_column_that_has_changed_is_named(dataset: Path) -> None:
    manifest = read_manifest(str(dataset), cache=None)
    with_wrong_types(dataset / BAD_FILE)
    expected = (
        r"^row group 1 of .*/a\.parquet: column 'user' is int64, but was int32 when the dataset was opened; restore"
    )
    with pytest.raises(UnreadableError, match=expected):
        read_row_group(manifest, BAD_GROUPS[1], ["number", "user"])
    assert read_row_group(manifest, BAD_GROUPS[1], ["number"]).num_rows == 1


def test_lists_are_alike_whatever_their_elements_are_called(tmp_path: Path) -> None:
    """Writers differ in it."""
    for name in ("item", "element"):
        kind = pa.list_(pa.field(name, pa.int64()))
        table = pa.table({"tags": pa.array([[1, 2]], kind)})
        pq.write_table(table, tmp_path / f"{name}.parquet", use_compliant_nested_type=False)
    manifest = read_manifest(str(tmp_path), cache=None)
    assert [read_row_group(manifest, group, ["tags"])["tags"].to_pylist() for group in range(2)] == [[[1, 2]]] * 2


def test_text_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    """Arrow does not look; it shows where the text is first used."""
    text = pa.StringArray.from_buffers(2, pa.array([0, 2, 4], pa.int32()).buffers()[1], pa.py_buffer(b"ok\xff\xfe"))
    pq.write_table(pa.table({"word": text}), tmp_path / "a.parquet")
    columns = Columns(Features(sparse=(SparseFeature(column="word", table="word", hash=True),)), {"word": 9}, ())
    reading = Reading(read_manifest(str(tmp_path), cache=None), columns, 2, 1, "stored", 0, keep_last=True)
    batches = stream(reading, range(1), 0)
    with pytest.raises(UnreadableError, match=r"^row group 0 of .*/a\.parquet: cannot be read \(Invalid UTF8 .*\); "):
        next(batches)
    batches.close()
    batches = stream(replace(reading, on_bad_file="skip"), range(1), 0)
    assert next(batches).weights_B.tolist() == [0, 0]
    batches.close()
    assert len(batches.account.skipped) == 1


def test_the_error_travels_between_ranks() -> None:
    error = UnreadableError("row group 3 of a.parquet", "cannot be read (gone)", "restore the file")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.reason) == (str(error), error.reason)
    assert str(error) == "row group 3 of a.parquet: cannot be read (gone); restore the file"


# ---- any byte


def write_one_file(path: Path, checksums: bool) -> bytes:
    table = pa.Table.from_pylist([make_row(number) for number in range(1, 61)], SCHEMA)
    pq.write_table(table, path, row_group_size=20, data_page_size=200, write_page_checksum=checksums)
    return path.read_bytes()


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """One to four wrong bytes, or cut short."""
    if draw.random() < 0.1:
        return whole[: draw.randrange(len(whole))]
    changed = bytearray(whole)
    for _ in range(draw.choice([1, 1, 1, 4])):
        changed[draw.randrange(len(whole))] = draw.randrange(256)
    return bytes(changed)


def pass_of(reading: Reading) -> list[Row] | None:
    """All rows of a pass; None where it ends with an error."""
    rows = or_error(lambda: [row for batch in take(reading, range(2), 0, None) for row in batch])
    return None if isinstance(rows, DataError) else rows


def or_error(function: Callable[[], Result]) -> Result | DataError:
    """The result, or the error where it is one of one line; any other is raised."""
    try:
        result = function()
    except DataError as error:
        if "\n" not in str(error):
            return error
        raise
    return result


def test_no_damage_is_more_than_padding_or_an_error_of_one_line(tmp_path: Path) -> None:
    """Wrong bytes without a checksum may be read as wrong values: a wrong value is an error in both modes."""
    path, draw = tmp_path / "a.parquet", random.Random(17)
    whole = write_one_file(path, checksums=False)
    manifest = read_manifest(str(tmp_path), cache=None)
    reading = reading_of(manifest, global_batch_size=20, lanes=2, keep_last=True, on_bad_file="skip")
    outcomes = {"rows": 0, "padding": 0, "error": 0}
    for _ in range(150):
        path.write_bytes(damaged(whole, draw))
        rows = pass_of(reading)
        assert rows is None or len(rows) == 60
        outcomes["error" if rows is None else "padding" if PADDING in rows else "rows"] += 1
    assert min(outcomes.values()) > 0, outcomes


def test_a_checksum_finds_every_wrong_byte(tmp_path: Path) -> None:
    path, draw = tmp_path / "a.parquet", random.Random(17)
    whole = write_one_file(path, checksums=True)
    manifest = read_manifest(str(tmp_path), cache=None)
    reading = reading_of(manifest, global_batch_size=20, lanes=2, keep_last=True, on_bad_file="skip")
    expected = pass_of(reading)
    assert expected is not None
    num_padded = 0
    for _ in range(100):
        path.write_bytes(damaged(whole, draw))
        rows = pass_of(reading)
        assert rows is not None
        assert all(row in (good, PADDING) for row, good in zip(rows, expected, strict=True))
        num_padded += PADDING in rows
    assert num_padded > 20


@pytest.mark.parametrize("on_bad_file", get_args(OnBadFile))
def test_damage_before_the_start_is_an_error_of_one_line_or_left_out(tmp_path: Path, on_bad_file: OnBadFile) -> None:
    path, draw = tmp_path / "b.parquet", random.Random(17)
    whole = write_one_file(path, checksums=False)
    path.rename(tmp_path / "a.parquet")
    num_found = 0
    for _ in range(100):
        path.write_bytes(damaged(whole, draw))
        manifest = or_error(lambda: read_manifest(str(tmp_path), cache=None, on_bad_file=on_bad_file))
        if isinstance(manifest, DataError):
            num_found += 1
            continue
        assert manifest.num_rows == 60 * len(manifest.files)
        assert len(manifest.files) + len(manifest.left_out) == 2
        num_found += len(manifest.left_out)
    assert 20 < num_found < 80
