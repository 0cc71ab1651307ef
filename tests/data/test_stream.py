"""Batches from small Parquet files, compared with a slow reading of them in plain Python."""

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar, cast
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import data.pipeline.readers
from data.batch import Batch
from data.columns.decode import Columns
from data.columns.numbers import Label
from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.features import DenseFeature, Features, SparseFeature
from data.hashing import permutation
from data.manifest import Manifest
from data.order import OrderName
from data.pipeline.readers import Readers
from data.pipeline.row_groups import ReadTask, decode_rows, describe_batch, tasks_of_epoch
from data.reading import Reading
from data.stream import stream

NAMES: list[OrderName] = ["shuffled", "chronological", "stored"]
SEED = 17
FILES = {
    "day=0/a.parquet": [3, 1, 7],
    "day=0/b.parquet": [2],
    "day=1/a.parquet": [5, 0, 4],
    "day=2/x/a.parquet": [1, 1, 1, 6],
    "day=3.parquet": [13],
    "day=4/a.parquet": [8, 9],
}
"""Rows of the row groups of every file: 61 in all, in five windows."""
NUM_ROWS = sum(map(sum, FILES.values()))
TABLE_ROWS = {"user": 50, "word": 1000, "bucket": 4}
BOUNDARIES = (0.0, 1.5, 4.0)
COLUMNS = Columns(
    features=Features(
        sparse=(
            SparseFeature(column="user", table="user"),
            SparseFeature(column="tags", table="user"),
            SparseFeature(column="tags", table="word", name="hashed_tags", hash=True),
            SparseFeature(column="word", table="word", hash=True),
            SparseFeature(column="words", table="word", hash=True),
            SparseFeature(column="age", table="bucket", name="age_bucket", boundaries=BOUNDARIES),
        ),
        dense=(
            DenseFeature(column="number"),
            DenseFeature(column="age", transform="log1p", mean=0.5, scale=2.0),
        ),
    ),
    table_rows=TABLE_ROWS,
    labels=(Label("click", binary=True), Label("watch", binary=False)),
    weight="weight",
)
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("user", pa.int32()),
        ("tags", pa.list_(pa.int64())),
        ("word", pa.string()),
        ("words", pa.list_(pa.string())),
        ("age", pa.float32()),
        ("unused", pa.string()),
        ("click", pa.int8()),
        ("watch", pa.float64()),
        ("weight", pa.float32()),
    ]
)


def make_row(number: int) -> dict[str, Any]:
    """A row that its number tells; everything but number and weight is null now and then."""

    def unless(divisor: int, value: object) -> object:
        return value if number % divisor else None

    return {
        "number": number,
        "user": unless(7, number * 5 % 50),
        "tags": unless(5, [unless(3, (number + step) % 50) for step in range(number % 4)]),
        "word": unless(6, f"wörd {number % 9}"),
        "words": unless(4, [unless(2, f"w{number + step}") for step in range(number % 3)]),
        "age": unless(8, number / 4 - 3),
        "unused": "x",
        "click": unless(9, number % 2),
        "watch": unless(10, number * 0.5),
        "weight": 0.25 * (number % 5),
    }


def write_files(root: Path, change: Callable[[dict[str, Any]], object] = dict.copy) -> Path:
    number = 0
    for name, groups in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, SCHEMA) as writer:
            for size in groups:
                rows = [make_row(row) for row in range(number, number + size)]
                for row in rows:
                    change(row)
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA), row_group_size=max(size, 1))
                number += size
    return root


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(str(write_files(tmp_path_factory.mktemp("dataset"))), cache=None)


def reading_of(manifest: Manifest, **changes: Any) -> Reading:
    usual = Reading(manifest, COLUMNS, global_batch_size=8, lanes=4, order="shuffled", seed=SEED)
    return replace(usual, **changes)


AnyRow = TypeVar("AnyRow")


class Row(NamedTuple):
    """What a batch says of one row."""

    dense: tuple[float, ...]
    labels: tuple[float, ...]
    mask: tuple[bool, ...]
    weight: float
    ids: tuple[tuple[int, ...], ...]

    @property
    def number(self) -> int:
        return round(self.dense[0])


PADDING = Row((0.0, 0.0), (0.0, 0.0), (False, False), 0.0, ((),) * len(COLUMNS.features.sparse))


def rows_of(batch: Batch) -> list[Row]:
    keys = batch.sparse.keys()
    assert keys == [feature.name for feature in COLUMNS.features.sparse]
    values, offsets, num_rows = batch.sparse.values().tolist(), batch.sparse.offsets().tolist(), len(batch.weights_B)
    bags = [tuple(values[begin:end]) for begin, end in pairwise(offsets)]
    ids = zip(*(bags[start : start + num_rows] for start in range(0, len(bags), num_rows)), strict=True)
    others = (batch.dense_BD, batch.labels_BT, batch.label_weights_BT)
    dense, labels, mask = ([tuple(row) for row in tensor.tolist()] for tensor in others)
    return list(map(Row, dense, labels, mask, batch.weights_B.tolist(), ids))


def take(reading: Reading, lanes: range, samples: int, count: int | None, threads: int = 2) -> list[list[Row]]:
    """The rows of `count` batches, or of all there are."""
    batches = stream(reading, lanes, samples, threads=threads)
    try:
        return [rows_of(batch) for batch in islice(batches, count)]
    finally:
        batches.close()


def rank_lanes(reading: Reading, rank: int, world_size: int) -> range:
    each = reading.lanes // world_size
    return range(rank * each, (rank + 1) * each)


# ---- a slow reading, from the definitions alone


def slow_batches(reading: Reading, epochs: int) -> list[list[Row]]:
    share = reading.global_batch_size // reading.lanes
    return [
        [row for lane in lanes for row in lane[start : start + share]]
        for lanes in (slow_lanes(reading, epoch) for epoch in range(epochs))
        for start in range(0, NUM_ROWS // reading.global_batch_size * share, share)
    ]


def slow_lanes(reading: Reading, epoch: int) -> list[list[Row]]:
    """Permute the groups, window by window where asked; lay the rows end to end; cut."""
    groups = slow_groups(reading, epoch)
    sequence = list(range(len(groups)))
    if reading.order != "stored":
        sequence = permutation(len(groups), reading.seed, "groups", epoch).tolist()
    windows = [[groups[group][1] for group in sequence]]
    if reading.order == "chronological":
        names = sorted({window for window, _ in groups})
        windows = [[groups[group][1] for group in sequence if groups[group][0] == name] for name in names]
    return cut_into_lanes([[row for group in window for row in group] for window in windows], reading.lanes)


def cut_into_lanes(windows: list[list[AnyRow]], num_lanes: int) -> list[list[AnyRow]]:
    """Every lane's share of the rows of each window, in order."""
    lanes: list[list[AnyRow]] = [[] for _ in range(num_lanes)]
    so_far = 0
    for rows in windows:
        so_far += len(rows)
        left = rows
        for number, lane in enumerate(lanes):
            missing = (so_far + number) // num_lanes - len(lane)
            lane += left[:missing]
            left = left[missing:]
        assert not left
    return lanes


def slow_groups(reading: Reading, epoch: int) -> list[tuple[str, list[Row]]]:
    """(window, rows) of every row group, the rows in the order in which the group hands them out."""
    groups: list[tuple[str, list[Row]]] = []
    root = Path(reading.manifest.root)
    for path in sorted(str(path.relative_to(root)) for path in root.rglob("*.parquet")):
        parquet = pq.ParquetFile(root / path)
        for index in range(parquet.num_row_groups):
            rows = [slow_row(row) for row in parquet.read_row_group(index).to_pylist()]
            if reading.order == "shuffled":
                places = permutation(len(rows), reading.seed, "rows", epoch, len(groups)).tolist()
                rows = [rows[place] for place in places]
            window = str(Path(path).parent) if "/" in path else path
            groups.append((window, rows))
    return groups


def slow_row(row: dict[str, Any]) -> Row:
    age = row["age"]
    scaled = 0.0 if age is None else (math.copysign(math.log1p(abs(age)), age) - 0.5) / 2.0
    labels = [row["click"], row["watch"]]
    tags = [tag for tag in row["tags"] or [] if tag is not None]
    ids = (
        () if row["user"] is None else (row["user"],),
        tuple(tags),
        tuple(slow_fold(tag) for tag in tags),
        () if row["word"] is None else (slow_fold(slow_hash(row["word"])),),
        tuple(slow_fold(slow_hash(word)) for word in row["words"] or [] if word is not None),
        () if age is None else (sum(boundary <= age for boundary in BOUNDARIES),),
    )
    return Row(
        dense=(float(row["number"]), scaled),
        labels=tuple(0.0 if label is None else float(label) for label in labels),
        mask=tuple(label is not None for label in labels),
        weight=row["weight"],
        ids=ids,
    )


def slow_hash(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode())


def slow_mix(number: int) -> int:
    """SplitMix64's finaliser in integers without end."""
    mask = 2**64 - 1
    number = (number + 0x9E3779B97F4A7C15) & mask
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & mask
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & mask
    return number ^ (number >> 31)


def slow_fold(number: int, rows: int = TABLE_ROWS["word"]) -> int:
    return slow_mix(number) % rows


def assert_same(found: list[list[Row]], expected: list[list[Row]]) -> None:
    """Equal but for the float32 rounding of the transformed feature."""
    assert [len(batch) for batch in found] == [len(batch) for batch in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for row, slow in zip(ours, theirs, strict=True):
            assert row.dense == pytest.approx(slow.dense, rel=1e-6, abs=1e-7)
            assert row._replace(dense=()) == slow._replace(dense=())


# ---- what batches hold


@pytest.mark.parametrize("order", NAMES)
def test_batches_equal_a_slow_reading(manifest: Manifest, order: OrderName) -> None:
    """Two passes and a little of a third."""
    reading = reading_of(manifest, order=order)
    expected = slow_batches(reading, epochs=3)[:16]
    assert_same(take(reading, range(4), 0, 16), expected)


@pytest.mark.parametrize(("lanes", "size"), [(1, 1), (1, 61), (2, 14), (8, 16), (8, 56)])
def test_batches_equal_a_slow_reading_for_any_lanes(manifest: Manifest, lanes: int, size: int) -> None:
    reading = reading_of(manifest, order="chronological", lanes=lanes, global_batch_size=size)
    expected = slow_batches(reading, epochs=2)
    assert_same(take(reading, range(lanes), 0, len(expected)), expected)


@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_read_the_batches_of_one(manifest: Manifest, order: OrderName, world_size: int) -> None:
    reading = reading_of(manifest, order=order)
    alone = take(reading, range(4), 0, 16)
    ranks = [take(reading, rank_lanes(reading, rank, world_size), 0, 16) for rank in range(world_size)]
    together = [[row for part in parts for row in part] for parts in zip(*ranks, strict=True)]
    assert together == alone


@pytest.mark.parametrize("order", NAMES)
def test_a_pass_repeats_no_row_and_the_next_is_another_permutation(manifest: Manifest, order: OrderName) -> None:
    reading = reading_of(manifest, order=order)
    batches = take(reading, range(4), 0, 14)
    first, second = ([row.number for batch in half for row in batch] for half in (batches[:7], batches[7:]))
    assert len(set(first)) == len(set(second)) == 56
    assert (first == second) == (order == "stored")
    assert (reading.batches_per_epoch, reading.dropped_rows) == (7, 5)


@pytest.mark.parametrize("order", NAMES)
def test_resuming_at_any_batch_is_the_tail_of_an_uninterrupted_stream(manifest: Manifest, order: OrderName) -> None:
    """From every batch of two passes to the end of the second, and past it."""
    reading = reading_of(manifest, order=order)
    whole = take(reading, range(4), 0, 16)
    for batch in range(15):
        stop = 16 if batch % 5 == 0 else batch + 2
        assert take(reading, range(4), batch * 8, stop - batch) == whole[batch:stop]


def test_resuming_on_other_ranks_is_the_tail_too(manifest: Manifest) -> None:
    reading = reading_of(manifest, order="chronological")
    whole = take(reading, range(4), 0, 16)
    for batch in (3, 7, 9):
        ranks = [take(reading, rank_lanes(reading, rank, 2), batch * 8, 5) for rank in range(2)]
        assert [left + right for left, right in zip(*ranks, strict=True)] == whole[batch : batch + 5]


def test_the_number_of_threads_changes_nothing(manifest: Manifest) -> None:
    reading = reading_of(manifest)
    assert take(reading, range(4), 0, 10, threads=1) == take(reading, range(4), 0, 10, threads=5)


def test_without_a_weight_column_every_row_weighs_one(manifest: Manifest) -> None:
    reading = reading_of(manifest, columns=replace(COLUMNS, weight=None))
    assert {row.weight for batch in take(reading, range(4), 0, 8) for row in batch} == {1.0}


# ---- evaluation


@pytest.mark.parametrize("size", [4, 8, 60, 64])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_covers_every_row_once(manifest: Manifest, size: int, world_size: int) -> None:
    reading = reading_of(manifest, order="stored", global_batch_size=size, keep_last=True)
    ranks = [take(reading, rank_lanes(reading, rank, world_size), 0, None) for rank in range(world_size)]
    share = size // world_size
    assert [[len(batch) for batch in rank] for rank in ranks] == [[share] * reading.batches_per_epoch] * world_size
    assert reading.batches_per_epoch == -(-NUM_ROWS // size)
    assert reading.dropped_rows == 0
    rows = [row for rank in ranks for batch in rank for row in batch]
    padding = [row for row in rows if row.ids == PADDING.ids and row.weight == 0 and row.number == 0]
    kept = {row.number: row for row in rows if row not in padding}
    expected = {row.number: row for _, group in slow_groups(reading, 0) for row in group}
    assert padding == [PADDING] * (len(rows) - NUM_ROWS + 1)  # row 0 holds nothing but nulls: it looks like padding
    assert_same([[kept[number] for number in sorted(kept)]], [[expected[number] for number in range(1, NUM_ROWS)]])


def test_a_lane_without_a_row_is_padding(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([make_row(number) for number in (1, 2)], SCHEMA), tmp_path / "a.parquet")
    manifest = read_manifest(str(tmp_path), cache=None)
    reading = reading_of(manifest, order="stored", keep_last=True)
    (batch,) = take(reading, range(4), 0, None)
    assert [row.number for row in batch] == [0, 0, 0, 0, 1, 0, 2, 0]
    assert [row == PADDING for row in batch] == [row.number == 0 for row in batch]


# ---- which parts are read


exact = settings(max_examples=60)


@exact
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=10).filter(lambda sizes: sum(sizes) >= 8),
    st.sampled_from(NAMES),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.data(),
)
def test_all_lanes_read_as_many_rows_and_skipping_is_a_tail(
    sizes: list[int], order: OrderName, lanes: int, keep_last: bool, draw: st.DataObject
) -> None:
    window = np.sort(np.arange(len(sizes)) % 3)
    fake = SimpleNamespace(rows=np.array(sizes), window=window, num_rows=sum(sizes))
    reading = reading_of(cast(Manifest, fake), order=order, lanes=lanes, global_batch_size=4, keep_last=keep_last)
    whole = rows_by_lane(reading, skip=0)
    if not keep_last:
        assert [len(rows) for rows in whole] == [reading.batches_per_epoch * reading.rows_per_lane] * lanes
    skip = draw.draw(st.integers(0, reading.batches_per_epoch))
    assert rows_by_lane(reading, skip) == [rows[skip * reading.rows_per_lane :] for rows in whole]


def rows_by_lane(reading: Reading, skip: int) -> list[list[tuple[int, int]]]:
    lanes: list[list[tuple[int, int]]] = [[] for _ in range(reading.lanes)]
    tasks = tasks_of_epoch(reading, range(reading.lanes), 0, skip)
    assert [task.needed for task in tasks] == sorted(task.needed for task in tasks)
    for task in tasks:
        assert task.needed == skip * reading.rows_per_lane + len(lanes[task.lane])
        lanes[task.lane] += [(task.group, row) for row in range(task.start, task.stop)]
    return lanes


@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize("keep_last", [False, True])
def test_a_batch_is_described_by_the_row_groups_it_reads(manifest: Manifest, order: OrderName, keep_last: bool) -> None:
    reading = reading_of(manifest, order=order, keep_last=keep_last)
    group_of_row = np.repeat(np.arange(len(manifest.rows)), manifest.rows).tolist()
    batches = take(reading, range(4), 0, 7 if keep_last else 15)  # without the padding at the end
    for index, batch in enumerate(batches):
        groups = sorted({group_of_row[row.number] for row in batch})
        assert describe_batch(reading, index * 8) == [manifest.describe(group) for group in groups]


# ---- look-ahead


@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize(("lanes", "size"), [(1, 2), (2, 4), (4, 4), (4, 40)])
def test_look_ahead_is_bounded(manifest: Manifest, order: OrderName, lanes: int, size: int) -> None:
    """One part for each lane and one for the thread, plus what the batches that are gathered need."""
    reading = reading_of(manifest, order=order, lanes=lanes, global_batch_size=size)
    # No thread takes a job: each is taken here, one after the other.
    with mock.patch("data.pipeline.readers.Readers._work"):
        readers = Readers(reading, range(lanes), 0, 1, pin=False)
    most_held = 0
    for _ in range(200):
        job = readers._next_job()
        if job is None:
            assert len(readers.take()) > 0
            continue
        needed = sum(len(gathering.parts) for gathering in readers._ahead)
        assert readers._num_parts <= lanes + 1 + needed
        most_held = max(most_held, readers._num_parts)
        job()
    readers.close()
    assert most_held >= lanes + 1


def test_every_part_is_decoded_once(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int, int]] = []

    def counted(reading: Reading, task: ReadTask, table: pa.Table) -> object:
        decoded.append((task.group, task.start, task.stop))
        return decode_rows(reading, task, table)

    monkeypatch.setattr(data.pipeline.readers, "decode_rows", counted)
    take(reading_of(manifest, order="stored", keep_last=True), range(4), 0, None)
    rows = [(group, row) for group, start, stop in decoded for row in range(start, stop)]
    assert len(rows) == len(set(rows)) == NUM_ROWS


# ---- what goes wrong


def set_value(number: int, column: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(row: dict[str, Any]) -> None:
        if row["number"] == number:
            row[column] = value

    return change


WRONG_VALUES = {
    "label": ("click", 2, r"label 'click' is 2; a binary label is 0, 1 or null"),
    "NaN label": ("watch", math.nan, r"label 'watch' is nan; a label is a finite number or null; write null if .*"),
    "infinite label": ("watch", math.inf, r"label 'watch' is inf; a label is a finite number or null"),
    "id": ("user", 50, r"column 'user' holds id 50, but table 'user' has rows 0 to 49; .*hash = true"),
    "negative id": ("user", -3, r"column 'user' holds id -3, but table 'user' has rows 0 to 49; .*hash = true"),
    "id in a list": ("tags", [1, None, 99], r"column 'tags' holds id 99, but table 'user' has rows 0 to 49; .*"),
    "weight": ("weight", -0.5, r"weight 'weight' is -0.5; a weight is a number ≥ 0"),
    "no weight": ("weight", None, r"weight 'weight' is None; a weight is a number ≥ 0"),
}


@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize(("column", "value", "message"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_wrong_value_is_named(tmp_path: Path, order: OrderName, column: str, value: object, message: str) -> None:
    """Row 29 of the dataset is row 4 of row group 3 of its file, wherever it is read."""
    write_files(tmp_path, set_value(29, column, value))
    reading = reading_of(read_manifest(str(tmp_path), cache=None), order=order, keep_last=True)
    where = rf"row 4 of row group 3 of {tmp_path}/day=2/x/a\.parquet"
    with pytest.raises(DataError, match=rf"^{where}: {message}$"):
        take(reading, range(4), 0, None)
    assert_no_thread_is_left()


def test_batches_before_the_wrong_row_arrive(tmp_path: Path) -> None:
    write_files(tmp_path, set_value(29, "click", 2))
    reading = reading_of(read_manifest(str(tmp_path), cache=None), order="stored", lanes=1)
    batches = stream(reading, range(1), 0)
    try:
        assert [[row.number for row in rows_of(next(batches))] for _ in range(3)] == [
            list(range(start, start + 8)) for start in (0, 8, 16)
        ]
        for _ in range(2):
            with pytest.raises(DataError, match="row 4 of row group 3"):
                next(batches)
    finally:
        batches.close()


@pytest.mark.parametrize("step", ["decode_rows", "assemble"])
def test_an_iteration_that_ends_inside_a_thread_is_not_the_end_of_the_data(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def end(*_: object, **__: object) -> None:
        raise StopIteration

    monkeypatch.setattr(data.pipeline.readers, step, end)
    with pytest.raises(RuntimeError, match="an iteration ended inside a reader thread"):
        take(reading_of(manifest), range(4), 0, None)
    assert_no_thread_is_left()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def with_fewer_groups(path: Path) -> None:
    rewrite(path, [1, 1])


def with_shorter_groups(path: Path) -> None:
    rewrite(path, [1, 1, 1, 3])


def rewrite(path: Path, groups: list[int]) -> None:
    table = pq.read_table(path, partitioning=None)
    with pq.ParquetWriter(path, table.schema) as writer:
        for size in groups:
            writer.write_table(table.slice(0, size))


@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink, with_fewer_groups, with_shorter_groups])
@pytest.mark.parametrize("order", ["shuffled", "stored"])
def test_a_file_damaged_since_the_start_is_named(
    tmp_path: Path, damage: Callable[[Path], None], order: OrderName
) -> None:
    write_files(tmp_path)
    reading = reading_of(read_manifest(str(tmp_path), cache=None), order=order, keep_last=True)
    damage(tmp_path / "day=2/x/a.parquet")
    with pytest.raises(DataError, match=rf"^row group \d of {tmp_path}/day=2/x/a\.parquet: ") as raised:
        take(reading, range(4), 0, None)
    assert "\n" not in str(raised.value)
    assert_no_thread_is_left()


def threads_of_streams() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reader")]


def assert_no_thread_is_left() -> None:
    assert threads_of_streams() == []


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert_no_thread_is_left()


@pytest.mark.parametrize("taken", [0, 1, 9])
def test_closing_ends_all_threads(manifest: Manifest, taken: int) -> None:
    batches = stream(reading_of(manifest), range(4), 0, threads=3)
    assert len(list(islice(batches, taken))) == taken
    assert threads_of_streams() == ["reader-0", "reader-1", "reader-2"]
    batches.close()
    assert_no_thread_is_left()
    assert next(batches, None) is None
    batches.close()


def test_an_evaluation_ends_its_threads_itself(manifest: Manifest) -> None:
    batches = stream(reading_of(manifest, order="stored", keep_last=True), range(4), 0)
    assert len(list(batches)) == 8
    batches.close()


def test_waiting_for_the_first_batch_leaves_it(manifest: Manifest) -> None:
    reading = reading_of(manifest)
    batches = stream(reading, range(4), 0)
    batches.wait_for_first()
    assert rows_of(next(batches)) == take(reading, range(4), 0, 1)[0]
    batches.close()


def test_waiting_for_the_first_batch_raises_its_error(tmp_path: Path) -> None:
    write_files(tmp_path)
    reading = reading_of(read_manifest(str(tmp_path), cache=None), order="stored")
    truncate(tmp_path / "day=0/a.parquet")
    batches = stream(reading, range(4), 0)
    for wait in (batches.wait_for_first, batches.__next__):
        with pytest.raises(DataError, match="row group 0 of"):
            wait()
    batches.close()


def test_waiting_for_the_first_of_no_batches_ends(manifest: Manifest) -> None:
    reading = reading_of(manifest, order="stored", keep_last=True)
    batches = stream(reading, range(4), reading.batches_per_epoch * reading.global_batch_size)
    batches.wait_for_first()
    assert next(batches, None) is None
    batches.close()


def test_waiting_is_counted(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what the readers have not made ready yet, not for batches that have been handed over."""
    batches = stream(reading_of(manifest), range(4), 0)
    monkeypatch.setattr("data.stream.time.perf_counter", itertools.count(step=3).__next__)
    handed_over = [[next(batches)], [next(batches), next(batches)], [next(batches)]]
    monkeypatch.setattr(batches._readers, "take", lambda: handed_over.pop())
    batches._batches.clear()
    before = batches.times.wait
    next(batches)
    assert batches.times.wait == before + 3
    next(batches)
    next(batches)
    assert batches.times.wait == before + 6
    batches.close()
