"""Batches of random datasets equal a slow reading: row by row in plain Python, from the definitions alone.

Random are the columns and their nulls, files, row groups, blocks, lanes, order, world size and where one resumes.
"""

import datetime
import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.batch import Batch
from data.columns.decode import Columns, Label
from data.discovery.dataset import read_manifest
from data.features import DenseFeature, Features, SparseFeature
from data.hashing import stable_seed
from data.order import OrderName
from data.reading import Reading
from data.stream import stream
from tests.data.test_stream import cut_into_lanes, slow_mix

MASK = 2**64 - 1
ROWS = 11
"""Of every table; ids of columns that are not hashed stay below."""
EDGES = (-1.0, 0.5, 3.0)
DAY = datetime.date(2024, 1, 1)

# ---- random columns: their Arrow type, and a value from a random generator

TEXTS = ("", "a", "wörd", "a much longer text, beyond what is hashed in one step " * 6)
KINDS: dict[str, tuple[pa.DataType, Callable[[random.Random], object]]] = {
    "int8": (pa.int8(), lambda rng: rng.randrange(ROWS)),
    "uint16": (pa.uint16(), lambda rng: rng.randrange(ROWS)),
    "int32": (pa.int32(), lambda rng: rng.randrange(ROWS)),
    "int64": (pa.int64(), lambda rng: rng.randrange(ROWS)),
    "large": (pa.int64(), lambda rng: rng.randrange(-(2**63), 2**63)),
    "unsigned": (pa.uint64(), lambda rng: rng.randrange(2**64)),
    "bool": (pa.bool_(), lambda rng: rng.random() < 0.5),
    "text": (pa.string(), lambda rng: rng.choice(TEXTS)),
    "large text": (pa.large_string(), lambda rng: rng.choice(TEXTS)),
    "text view": (pa.string_view(), lambda rng: rng.choice(TEXTS)),
    "bytes": (pa.binary(), lambda rng: bytes([rng.randrange(256)])),
    "dictionary": (pa.dictionary(pa.int16(), pa.string()), lambda rng: rng.choice(TEXTS)),
    "number": (pa.float64(), lambda rng: rng.choice([rng.uniform(-9, 9), -1.0, 0.5, 3.0])),
    "single": (pa.float32(), lambda rng: rng.randrange(-40, 40) / 8),
    "half": (pa.float16(), lambda rng: rng.randrange(-40, 40) / 8),
}
INTEGERS = ("int8", "uint16", "int32", "int64")
HASHED = (*INTEGERS, "large", "unsigned", "bool", "text", "large text", "text view", "bytes", "dictionary")
NUMBERS = ("int8", "int64", "bool", "number", "single", "half")
LISTS: dict[str, Callable[[pa.DataType], pa.DataType]] = {
    "list": pa.list_,
    "large list": pa.large_list,
    "three": lambda kind: pa.list_(kind, 3),
}


class Source(NamedTuple):
    """A column of the dataset."""

    kind: str
    form: str
    """Of its lists; "" where a row holds one value."""
    nulls: float
    """Share of them."""

    @property
    def type(self) -> pa.DataType:
        kind = KINDS[self.kind][0]
        return LISTS[self.form](kind) if self.form else kind

    def value(self, rng: random.Random) -> object:
        if rng.random() < self.nulls:
            return None
        make = KINDS[self.kind][1]
        if not self.form:
            return make(rng)
        length = 3 if self.form == "three" else rng.choice([0, 0, 1, 2, 5])
        return [None if rng.random() < self.nulls else make(rng) for _ in range(length)]


class Case(NamedTuple):
    """A dataset, and how it is read."""

    sources: dict[str, Source]
    columns: Columns
    files: list[list[int]]
    """Rows of each row group."""
    compression: str
    page_bytes: int
    order: OrderName
    lanes: int
    world_size: int
    rows_per_lane: int
    block_rows: int | None
    keep_last: bool
    threads: int
    seed: int


NULLS = st.sampled_from([0.0, 0.0, 0.3, 1.0])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sources: dict[str, Source] = {}

    def column(kinds: tuple[str, ...], forms: tuple[str, ...] = ("",), nulls: st.SearchStrategy[float] = NULLS) -> str:
        name = f"column {len(sources)}"
        sources[name] = Source(draw(st.sampled_from(kinds)), draw(st.sampled_from(forms)), draw(nulls))
        return name

    sparse: list[SparseFeature] = []
    for index in range(draw(st.integers(0, 4))):
        use = draw(st.sampled_from(["ids", "hashed", "buckets"]))
        kinds = {"ids": INTEGERS, "hashed": HASHED, "buckets": NUMBERS}[use]
        # Lists of dictionaries and of views are no types that Parquet files hold as such.
        forms = ("", *LISTS) if use != "buckets" else ("",)
        name = column(kinds, forms)
        if sources[name].form and sources[name].kind in ("dictionary", "text view"):
            sources[name] = sources[name]._replace(kind="text")
        boundaries = EDGES if use == "buckets" else ()
        feature = SparseFeature(
            column=name, table="table", name=f"feature {index}", hash=use == "hashed", boundaries=boundaries
        )
        sparse.append(feature)

    dense = []
    for _ in range(draw(st.integers(0, 3))):
        transform = draw(st.sampled_from(["none", "log1p"]))
        scale = draw(st.sampled_from([1.0, 2.5]))
        dense.append(DenseFeature(column=column(NUMBERS), transform=transform, mean=scale - 1, scale=scale))

    labels = [Label(column(("bool",)), binary=True)]
    labels += [Label(column(NUMBERS), binary=False) for _ in range(draw(st.integers(0, 2)))]
    weight = column(("uint16",), nulls=st.just(0.0)) if draw(st.booleans()) else None
    column(("text",))  # read by nothing

    lanes = draw(st.integers(1, 8))
    features = Features(sparse=tuple(sparse), dense=tuple(dense))
    groups = st.lists(st.integers(0, 12), min_size=1, max_size=4)
    return Case(
        sources=sources,
        columns=Columns(features, {"table": ROWS}, tuple(labels), weight),
        files=draw(st.lists(groups, min_size=1, max_size=4).filter(lambda files: sum(map(sum, files)) > 0)),
        compression=draw(st.sampled_from(["zstd", "snappy", "none"])),
        page_bytes=draw(st.sampled_from([16, 1 << 20])),
        order=draw(st.sampled_from(["shuffled", "chronological", "stored"])),
        lanes=lanes,
        world_size=draw(st.sampled_from([size for size in range(1, 9) if lanes % size == 0])),
        rows_per_lane=draw(st.integers(1, 5)),
        block_rows=draw(st.sampled_from([None, 1, 2, 3, 5, 11])),
        keep_last=draw(st.booleans()),
        threads=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 2**32)),
    )


def write(case: Case, root: Path) -> None:
    rng = random.Random(case.seed)
    schema = pa.schema([(name, source.type) for name, source in case.sources.items()])
    for number, groups in enumerate(case.files):
        path = root / f"day={number}" / "part.parquet"
        path.parent.mkdir(parents=True)
        writer = pq.ParquetWriter(
            path, schema, compression=case.compression, data_page_size=case.page_bytes, write_batch_size=3
        )
        with writer:
            for size in groups:
                columns = [
                    pa.array([source.value(rng) for _ in range(size)], source.type) for source in case.sources.values()
                ]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=max(size, 1))


# ---- the slow reading


class Row(NamedTuple):
    """What a batch says of one row."""

    ids: tuple[tuple[int, ...], ...]
    dense: tuple[float, ...]
    labels: tuple[float, ...]
    mask: tuple[bool, ...]
    weight: float
    number: int
    """In the dataset."""


def slow_permutation(count: int, *key: object) -> list[int]:
    base = slow_mix(stable_seed(*key))
    return sorted(range(count), key=lambda number: (slow_mix(number ^ base) >> 32, number))


def slow_id(value: Any, feature: SparseFeature) -> int:
    if feature.boundaries:
        return sum(edge <= value for edge in feature.boundaries)
    if isinstance(value, str | bytes):
        value = xxhash.xxh3_64_intdigest(value.encode() if isinstance(value, str) else value)
    return slow_mix(int(value) & MASK) % ROWS if feature.hash else int(value)


def slow_row(case: Case, row: dict[str, Any], number: int) -> Row:
    ids = []
    for feature in case.columns.features.sparse:
        value = row[feature.column]
        values = value if isinstance(value, list) else [value]
        ids.append(tuple(slow_id(entry, feature) for entry in values if entry is not None))

    dense = []
    for entry in case.columns.features.dense:
        value = row[entry.column]
        if value is None:
            dense.append(0.0)
            continue
        value = float(value)
        if entry.transform == "log1p":
            value = math.copysign(math.log1p(abs(value)), value)
        dense.append((value - (entry.mean or 0)) / (entry.scale or 1))

    labels = [row[label.column] for label in case.columns.labels]
    return Row(
        ids=tuple(ids),
        dense=tuple(dense),
        labels=tuple(0.0 if label is None else float(label) for label in labels),
        mask=tuple(label is not None for label in labels),
        weight=float(row[case.columns.weight]) if case.columns.weight else 1.0,
        number=number,
    )


def slow_groups(case: Case, root: Path) -> list[tuple[int, list[Row]]]:
    """(window, rows) of every row group, as stored."""
    groups = []
    number = 0
    for window, path in enumerate(sorted(root.rglob("*.parquet"))):
        parquet = pq.ParquetFile(path)
        for index in range(parquet.num_row_groups):
            stored = parquet.read_row_group(index).to_pylist()
            groups.append((window, [slow_row(case, row, number + place) for place, row in enumerate(stored)]))
            number += len(stored)
    return groups


def slow_group_order(case: Case, group: int, rows: list[Row], epoch: int) -> list[Row]:
    """Block by block: as few equal ones of up to `block_rows` rows as will do."""
    if case.order != "shuffled":
        return rows
    num_blocks = 1 if case.block_rows is None else max(math.ceil(len(rows) / case.block_rows), 1)
    if num_blocks == 1:
        return [rows[place] for place in slow_permutation(len(rows), case.seed, "rows", epoch, group)]
    size = math.ceil(len(rows) / num_blocks)
    ordered = []
    for begin in range(0, len(rows), size):
        block = rows[begin : begin + size]
        places = slow_permutation(len(block), case.seed, "rows", epoch, group, begin)
        ordered += [block[place] for place in places]
    return ordered


def slow_lanes(case: Case, groups: list[tuple[int, list[Row]]], epoch: int) -> list[list[Row]]:
    sequence = list(range(len(groups)))
    if case.order != "stored":
        sequence = slow_permutation(len(groups), case.seed, "groups", epoch)
    windows: dict[int, list[Row]] = {}
    for group in sequence:
        window, rows = groups[group]
        of_window = windows.setdefault(window if case.order == "chronological" else 0, [])
        of_window += slow_group_order(case, group, rows, epoch)
    return cut_into_lanes([windows[window] for window in sorted(windows)], case.lanes)


def slow_batches(case: Case, root: Path, ranks: list[range]) -> list[list[list[Row]]]:
    """The rows of each rank in every batch of two passes, or of the one of an evaluation."""
    groups = slow_groups(case, root)
    nothing = Row(
        ids=((),) * len(case.columns.features.sparse),
        dense=(0.0,) * len(case.columns.features.dense),
        labels=(0.0,) * len(case.columns.labels),
        mask=(False,) * len(case.columns.labels),
        weight=0.0,
        number=-1,
    )
    num_rows = sum(len(rows) for _, rows in groups)
    batch_size = case.lanes * case.rows_per_lane
    batches = math.ceil(num_rows / batch_size) if case.keep_last else num_rows // batch_size

    found = []
    for epoch in range(1 if case.keep_last else 2):
        lanes = slow_lanes(case, groups, epoch)
        for index in range(batches):
            cut = slice(index * case.rows_per_lane, (index + 1) * case.rows_per_lane)
            shares = [(lane[cut] + [nothing] * case.rows_per_lane)[: case.rows_per_lane] for lane in lanes]
            found.append([[row for lane in rank for row in shares[lane]] for rank in ranks])
    return found


# ---- the comparison


def rows_of(batch: Batch) -> list[Row]:
    num_rows = len(batch.weights_B)
    values, offsets = batch.sparse.values().tolist(), batch.sparse.offsets().tolist()
    bags = [tuple(values[begin:end]) for begin, end in pairwise(offsets)]
    features = [bags[start : start + num_rows] for start in range(0, len(bags), num_rows)]
    ids = list(zip(*features, strict=True)) if features else [()] * num_rows
    others = (batch.dense_BD, batch.labels_BT, batch.label_mask_BT)
    dense, labels, mask = ([tuple(row) for row in tensor.tolist()] for tensor in others)
    return list(map(Row, ids, dense, labels, mask, batch.weights_B.tolist(), batch.row_ids_B.tolist()))


def assert_equal(found: list[Row], expected: list[Row]) -> None:
    """Value for value; numbers that are scaled in float64 are rounded to float32 once."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        rounded = [tuple(np.array(values, np.float32).tolist()) for values in (theirs.labels, theirs.dense)]
        assert ours._replace(dense=()) == theirs._replace(dense=(), labels=rounded[0])
        assert ours.dense == pytest.approx(rounded[1], rel=2e-7)  # numpy's log1p may differ in the last bit


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(), st.data())
def test_every_batch_equals_a_slow_reading(
    tmp_path_factory: pytest.TempPathFactory, case: Case, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("dataset")
    write(case, root)
    reading = Reading(
        read_manifest(str(root), cache=None),
        case.columns,
        case.lanes * case.rows_per_lane,
        case.lanes,
        case.order,
        case.seed,
        case.keep_last,
        block_rows=case.block_rows,
    )
    each = case.lanes // case.world_size
    ranks = [range(rank * each, (rank + 1) * each) for rank in range(case.world_size)]
    expected = slow_batches(case, root, ranks)
    resumed_at = data.draw(st.integers(0, len(expected)))
    if not reading.batches_per_epoch:
        return

    for number, lanes in enumerate(ranks):
        for begin in {0, resumed_at}:
            batches = stream(reading, lanes, begin * reading.global_batch_size, threads=case.threads)
            try:
                found = [rows_of(batch) for batch in islice(batches, len(expected) - begin)]
            finally:
                batches.close()
            assert len(found) == len(expected) - begin
            for ours, theirs in zip(found, expected[begin:], strict=True):
                assert_equal(ours, theirs[number])


def test_blocks_cut_the_order_of_a_row_group_alone(tmp_path: Path) -> None:
    """The row groups come in the same order, and each row from its own block."""
    pq.write_table(pa.table({"x": list(range(40)), "y": [0.0] * 40}), tmp_path / "a.parquet", row_group_size=20)
    columns = Columns(Features(sparse=(SparseFeature(column="x", table="t"),)), {"t": 40}, (Label("y", binary=False),))
    whole = Reading(read_manifest(str(tmp_path), cache=None), columns, 1, 1, "shuffled", 3)

    def ids(reading: Reading) -> list[int]:
        batches = stream(reading, range(1), 0)
        try:
            return [int(batch.sparse.values()[0]) for batch in islice(batches, 40)]
        finally:
            batches.close()

    all_at_once, in_blocks = ids(whole), ids(replace(whole, block_rows=8))
    assert all_at_once != in_blocks
    assert [row // 20 for row in all_at_once] == [row // 20 for row in in_blocks]
    assert [row % 20 // 7 for row in in_blocks] == [0] * 7 + [1] * 7 + [2] * 6 + [0] * 7 + [1] * 7 + [2] * 6
