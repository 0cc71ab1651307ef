"""Batches of random datasets equal a slow reading: row by row in plain Python, from the definitions alone.

Random are the columns, how each file stores them and whether it has them, their nulls and recipes; files, row groups,
blocks, lanes, order, world size and where one resumes.
"""

import datetime
import decimal
import math
import operator
import random
import zoneinfo
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.batch import Batch
from data.columns.decode import Columns
from data.columns.numbers import Label
from data.columns.vocabulary import Vocabulary
from data.conditions import parse_condition
from data.discovery.dataset import read_manifest
from data.features import PART_SIZES, DenseFeature, Features, SparseFeature
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

# ---- random columns: the types that files store them in, and a value from a random generator

TEXTS = ("", "a", "wörd", "a much longer text, beyond what is hashed in one step " * 6)
TIMES = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Asia/Shanghai")]
EPOCH = datetime.datetime(1970, 1, 1)
KINDS: dict[str, tuple[list[pa.DataType], Callable[[random.Random], object]]] = {
    "small": (
        [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64(), pa.decimal128(9, 0), pa.float32(), pa.float64()],
        lambda rng: rng.randrange(ROWS),
    ),
    "large": ([pa.int64(), pa.decimal128(20, 0)], lambda rng: rng.randrange(-(2**63), 2**63)),
    "bool": ([pa.bool_(), pa.int8(), pa.float16()], lambda rng: rng.random() < 0.5),
    "text": (
        [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int16(), pa.string())],
        lambda rng: rng.choice(TEXTS),
    ),
    "bytes": ([pa.binary(), pa.large_binary()], lambda rng: bytes([rng.randrange(256)])),
    "number": ([pa.float64()], lambda rng: rng.choice([rng.uniform(-9, 9), -1.0, 0.5, 3.0])),
    "eighth": ([pa.float16(), pa.float32(), pa.float64(), pa.decimal128(9, 3)], lambda rng: rng.randrange(-40, 40) / 8),
    "time": (TIMES, lambda rng: EPOCH + datetime.timedelta(seconds=rng.randrange(-(10**9), 3 * 10**9))),
    "date": ([pa.date32(), pa.date64()], lambda rng: DAY + datetime.timedelta(rng.randrange(-9000, 9000))),
}
IDS = ("small",)
HASHED = ("small", "large", "bool", "text", "bytes")
NUMBERS = ("small", "bool", "number", "eighth")
MOMENTS = ("time", "date")
IN_LISTS = ("int", "float", "double", "decimal", "bool", "string", "large_string", "binary", "large_binary")
"""Parquet keeps no dictionaries and views inside lists."""
PAIR = {"key": pa.int64(), "value": pa.float32()}
PAIRS = [
    pa.map_(pa.int64(), pa.float32()),
    pa.map_(pa.int32(), pa.float64()),
    pa.list_(pa.struct(PAIR)),
    pa.large_list(pa.struct({"other": pa.string(), **PAIR})),
]


class Source(NamedTuple):
    """A column of the dataset."""

    kind: str
    form: str
    """`list`, `three` of each row, `pairs`, or `struct`; "" where a row holds one value."""
    nulls: float
    """Share of them."""
    lacking: frozenset[int]
    """Files that do not have it."""

    def type_in(self, file: int, rng: random.Random) -> pa.DataType:
        """As some file stores it."""
        if self.form == "pairs":
            return rng.choice(PAIRS)
        kinds = KINDS[self.kind][0]
        if self.form == "":
            return rng.choice(kinds)
        if self.form == "struct":
            kinds = [kind for kind in kinds if not str(kind).endswith("_view")]  # pyarrow does not write them there
            inner = pa.struct({"other": pa.list_(pa.int8()), "x": rng.choice(kinds)})
            return pa.struct({"in": inner}) if file % 2 else pa.struct({"more": pa.int8(), "in": inner})
        kind = rng.choice([kind for kind in kinds if str(kind).startswith(IN_LISTS)])
        lists = [pa.list_(kind), pa.large_list(kind)]
        return rng.choice([*lists, pa.list_(kind, 3)] if self.form == "three" else lists)

    def value(self, rng: random.Random) -> Any:
        if rng.random() < self.nulls:
            return None
        make = KINDS[self.kind][1]
        if self.form == "struct":
            return {"in": None if rng.random() < self.nulls else {"x": make(rng)}}
        if not self.form:
            return make(rng)
        length = 3 if self.form == "three" else rng.choice([0, 0, 1, 2, 5])
        if self.form == "pairs":
            return [(make(rng), rng.randrange(-40, 40) / 8) for _ in range(length)]
        return [None if rng.random() < self.nulls else make(rng) for _ in range(length)]

    def array(self, file: int, values: list[Any], rng: random.Random) -> pa.Array:
        kind = self.type_in(file, rng)
        if all(value is None for value in values) and rng.random() < 0.5:
            return pa.nulls(len(values))
        return pa.array([as_stored(value, kind) for value in values], kind)


def as_stored(value: Any, kind: pa.DataType) -> Any:
    """A value as pa.array takes it for a column of a type."""
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: as_stored(entry, kind.field(name).type) for name, entry in value.items()}
    if isinstance(value, list):
        is_pairs = not pa.types.is_map(kind) and pa.types.is_struct(kind.value_type)
        pairs = [{"key": key, "value": number} for key, number in value] if is_pairs else value
        return pairs if is_pairs or pa.types.is_map(kind) else [as_stored(entry, kind.value_type) for entry in value]
    return number_as_stored(value, kind) if isinstance(value, int | float) else text_or_time_as_stored(value, kind)


def text_or_time_as_stored(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, str) and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return value.encode()
    if isinstance(value, datetime.datetime) and kind.tz:
        return value.replace(tzinfo=datetime.UTC)
    return value


def number_as_stored(value: float, kind: pa.DataType) -> Any:
    if pa.types.is_boolean(kind):
        return bool(value)
    if pa.types.is_decimal(kind):
        return decimal.Decimal(repr(value))
    if pa.types.is_float16(kind):
        return np.float16(value)
    return float(value) if pa.types.is_floating(kind) else int(value)


Tree = tuple[Any, ...]
"""A condition: ("not", tree), ("and", trees), ("or", trees), or (sign, column, values)."""


class Case(NamedTuple):
    """A dataset, and how it is read."""

    sources: dict[str, Source]
    columns: Columns
    spaces: list[Tree | None]
    """Of each label, as its `where` says it."""
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
LACKING = st.sampled_from([frozenset[int](), frozenset({0}), frozenset({1, 2})])
RECIPES = ["ids", "hashed", "vocabulary", "buckets", "parts", "cross", "weighted", "key"]


class Sources(dict[str, Source]):
    """Random columns, by name."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__()
        self._draw = draw

    def add(
        self, kinds: tuple[str, ...], forms: tuple[str, ...] = ("",), *, nulls: bool = True, lacking: bool = False
    ) -> str:
        """The path of a new one."""
        draw = self._draw
        name = f"column {len(self)}"
        form = draw(st.sampled_from(forms))
        gone = draw(LACKING) if lacking else frozenset[int]()
        self[name] = Source(draw(st.sampled_from(kinds)), form, draw(NULLS) if nulls else 0.0, gone)
        return f"{name}.in.x" if form == "struct" else name


def draw_sparse(draw: st.DrawFn, sources: Sources, name: str) -> SparseFeature:
    recipe = draw(st.sampled_from(RECIPES))
    lacking = draw(st.booleans())
    keys: dict[str, Any] = {"table": "table", "name": name, "missing": "null" if lacking else "error"}
    forms = ("", "struct", "list", "three")
    if recipe == "key":
        return SparseFeature(**keys, column="day")
    if recipe == "cross":
        columns = tuple(sources.add(HASHED, ("", "struct"), lacking=lacking) for _ in range(draw(st.integers(2, 3))))
        return SparseFeature(**keys, cross=columns, seed=draw(st.integers(0, 2)), hashes=draw(st.integers(1, 3)))
    if recipe == "buckets":
        return SparseFeature(**keys, column=sources.add(NUMBERS, forms, lacking=lacking), boundaries=EDGES)
    if recipe == "parts":
        column = sources.add(MOMENTS, ("", "struct"), lacking=lacking)
        parts = draw(st.lists(st.sampled_from(list(PART_SIZES)), min_size=1, max_size=3, unique=True))
        zone = draw(st.sampled_from(["UTC", "Asia/Kolkata"]))
        return SparseFeature(**keys | {"table": "parts"}, column=column, parts=tuple(parts), timezone=zone)

    if draw(st.booleans()):
        keys[draw(st.sampled_from(["first", "last"]))] = draw(st.integers(1, 3))
    if recipe == "weighted":
        column = sources.add(IDS, ("pairs",), lacking=lacking)
        return SparseFeature(**keys, column=f"{column}.key", weights=f"{column}.value")
    if recipe == "vocabulary":
        keys |= {"vocabulary": "auto", "unknown_rows": UNKNOWN_ROWS, "table": "vocabulary"}
    if recipe == "hashed":
        keys |= {"hash": True, "seed": draw(st.integers(0, 2)), "hashes": draw(st.integers(1, 3))}
    return SparseFeature(**keys, column=sources.add(IDS if recipe == "ids" else HASHED, forms, lacking=lacking))


def draw_dense(draw: st.DrawFn, sources: Sources) -> DenseFeature:
    lacking = draw(st.booleans())
    scale = draw(st.sampled_from([1.0, 2.5]))
    keys: dict[str, Any] = {
        "transform": draw(st.sampled_from(["none", "log1p", "sqrt"])),
        "mean": scale - 1,
        "scale": scale,
        "fill": draw(st.sampled_from([None, 0.5])),
        "clip": draw(st.sampled_from([None, (-2.0, 4.0)])),
        "missing": "null" if lacking else "error",
    }
    use = draw(st.sampled_from(["number", "vector", "since"]))
    if use == "vector":
        return DenseFeature(**keys, column=sources.add(NUMBERS, ("three",), lacking=lacking), size=3)
    if use == "since":
        column, since = (sources.add(MOMENTS, lacking=lacking) for _ in range(2))
        return DenseFeature(**keys, column=column, since=since)
    return DenseFeature(**keys, column=sources.add(NUMBERS, ("", "struct"), lacking=lacking))


def trees(sources: Sources) -> st.SearchStrategy[Tree]:
    """Conditions on new columns."""

    @st.composite
    def comparison(draw: st.DrawFn) -> Tree:
        kind = draw(st.sampled_from([*NUMBERS, "text", *MOMENTS]))
        of_kind = {"text": st.sampled_from(TEXTS), "date": st.dates(DAY, datetime.date(2025, 1, 1))}
        of_kind["time"] = st.datetimes(EPOCH, datetime.datetime(2040, 1, 1)).map(
            lambda time: time.replace(microsecond=0)
        )
        values = draw(st.lists(of_kind.get(kind, st.sampled_from([0, 1, 3, 0.5, -1])), min_size=1, max_size=2))
        sign = "in" if len(values) > 1 else draw(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]))
        return sign, sources.add((kind,)), values

    return st.recursive(
        comparison(),
        lambda inner: (
            inner.map(lambda tree: ("not", tree))
            | st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3))
        ),
        max_leaves=3,
    )


def as_text(tree: Tree) -> str:
    """As a user writes it."""
    if tree[0] == "not":
        return f"not ({as_text(tree[1])})"
    if tree[0] in ("and", "or"):
        return "(" + f" {tree[0]} ".join(map(as_text, tree[1])) + ")"
    sign, column, values = tree
    words = [
        f'"{value}"'
        if isinstance(value, str)
        else value.isoformat()
        if isinstance(value, datetime.date)
        else repr(value)
        for value in values
    ]
    return f'"{column}" {sign} ' + (f"({', '.join(words)})" if sign == "in" else words[0])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sources = Sources(draw)
    sparse = [draw_sparse(draw, sources, f"feature {index}") for index in range(draw(st.integers(0, 4)))]
    dense = [draw_dense(draw, sources) for _ in range(draw(st.integers(0, 3)))]
    labels = [Label(sources.add(("bool",)), binary=True)]
    labels += [
        Label(sources.add(NUMBERS, lacking=True), binary=False, missing="null") for _ in range(draw(st.integers(0, 2)))
    ]
    spaces = [draw(st.none() | trees(sources)) for _ in labels]
    labels = [
        replace(
            label,
            weight=sources.add(("small",), nulls=False) if draw(st.booleans()) else None,
            where=parse_condition(as_text(tree), "") if tree else None,
        )
        for label, tree in zip(labels, spaces, strict=True)
    ]
    weight = sources.add(("small",), nulls=False) if draw(st.booleans()) else None
    sources.add(("text",), lacking=True)  # read by nothing

    lanes = draw(st.integers(1, 8))
    features = Features(sparse=tuple(sparse), dense=tuple(dense))
    groups = st.lists(st.integers(0, 12), min_size=1, max_size=4)
    return Case(
        sources=sources,
        columns=Columns(features, TABLE_ROWS, tuple(labels), weight, {"vocabulary": VOCABULARY}),
        spaces=spaces,
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
    """Each file with types of its own, and without the columns that it lacks."""
    for number, groups in enumerate(case.files):
        rng = random.Random(case.seed + number)
        size = sum(groups)
        columns = {
            name: source.array(number, [source.value(rng) for _ in range(size)], rng)
            for name, source in case.sources.items()
            if number not in source.lacking
        }
        table = pa.table(columns)
        path = root / f"day={number}" / "part.parquet"
        path.parent.mkdir(parents=True)
        writer = pq.ParquetWriter(
            path, table.schema, compression=case.compression, data_page_size=case.page_bytes, write_batch_size=3
        )
        with writer:
            begin = 0
            for size in groups:
                writer.write_table(table.slice(begin, size), row_group_size=max(size, 1))
                begin += size


# ---- the slow reading


class Row(NamedTuple):
    """What a batch says of one row."""

    ids: tuple[tuple[int, ...], ...]
    id_weights: tuple[tuple[float, ...], ...]
    """Empty where no feature has weights."""
    dense: tuple[float, ...]
    labels: tuple[float, ...]
    label_weights: tuple[float, ...]
    weight: float
    number: int
    """In the dataset."""


def slow_permutation(count: int, *key: object) -> list[int]:
    base = slow_mix(stable_seed(*key))
    return sorted(range(count), key=lambda number: (slow_mix(number ^ base) >> 32, number))


def look_up(row: dict[str, Any], path: str) -> Any:
    """What stands in a row under a path; None where nothing does."""
    name, *fields = path.split(".")
    value = row.get(name)
    for field in fields:
        if isinstance(value, list):  # of pairs, as maps and as lists of structs are
            place = ("key", "value").index(field)
            value = [entry[field] if isinstance(entry, dict) else entry[place] for entry in value]
        elif value is not None:
            value = value[field]
    return value


def slow_bits(value: Any) -> int:
    if isinstance(value, str | bytes):
        return xxhash.xxh3_64_intdigest(value.encode() if isinstance(value, str) else value)
    return int(value) & MASK


KNOWN = [slow_bits(value) for value in (7, 0, 3, "a", 1, b"\x05", "", TEXTS[3])]
UNKNOWN_ROWS = 2
VOCABULARY = Vocabulary(pa.array(np.array(KNOWN, np.uint64).view(np.int64)), UNKNOWN_ROWS)
TABLE_ROWS = {"table": ROWS, "parts": 200, "vocabulary": UNKNOWN_ROWS + len(KNOWN)}


def slow_hash(bits: int, seed: int) -> int:
    return slow_mix(bits ^ (slow_mix(seed) if seed else 0)) % ROWS


def slow_row_of_table(bits: int) -> int:
    return UNKNOWN_ROWS + KNOWN.index(bits) if bits in KNOWN else slow_mix(bits) % UNKNOWN_ROWS


def slow_moment(value: Any) -> datetime.datetime:
    """In UTC, without a zone."""
    if not isinstance(value, datetime.datetime):
        return datetime.datetime(value.year, value.month, value.day)
    return value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value


def slow_parts(value: Any, feature: SparseFeature) -> list[int]:
    moment = slow_moment(value).replace(tzinfo=datetime.UTC).astimezone(zoneinfo.ZoneInfo(feature.timezone))
    numbers = {
        "minute": moment.minute,
        "hour": moment.hour,
        "day_of_week": moment.weekday(),
        "day": moment.day - 1,
        "month": moment.month - 1,
    }
    sizes = [PART_SIZES[part] for part in feature.parts]
    return [numbers[part] + sum(sizes[:place]) for place, part in enumerate(feature.parts)]


def slow_ids(row: dict[str, Any], feature: SparseFeature) -> list[tuple[int, float]]:
    """(id, weight) of a row."""
    if feature.cross:
        bits = 0
        for name in feature.cross:
            value = look_up(row, name)
            bits = slow_mix(bits ^ (0x6E756C6C if value is None else slow_mix(slow_bits(value))))
        return [(slow_hash(bits, seed), 1.0) for seed in range(feature.seed, feature.seed + feature.hashes)]

    value = look_up(row, feature.column)
    values = value if isinstance(value, list) else [value]
    weights = (look_up(row, feature.weights) or []) if feature.weights else [1.0] * len(values)
    pairs = [(value, weight) for value, weight in zip(values, weights, strict=False) if value is not None]
    pairs = pairs[: feature.first] if feature.first else pairs[-feature.last :] if feature.last else pairs
    if feature.boundaries:
        return [(sum(edge <= value for edge in feature.boundaries), weight) for value, weight in pairs]
    if feature.parts:
        return [(number, 1.0) for value, _ in pairs for number in slow_parts(value, feature)]
    if feature.vocabulary:
        return [(slow_row_of_table(slow_bits(value)), weight) for value, weight in pairs]
    if feature.hash:
        seeds = range(feature.seed, feature.seed + feature.hashes)
        return [(slow_hash(slow_bits(value), seed), weight) for value, weight in pairs for seed in seeds]
    return [(int(value), weight) for value, weight in pairs]


def slow_number(value: Any, feature: DenseFeature) -> float:
    value = feature.fill if value is None else value
    if value is None:
        return 0.0
    value = float(value)
    if feature.clip:
        value = min(max(value, feature.clip[0]), feature.clip[1])
    if feature.transform == "log1p":
        value = math.copysign(math.log1p(abs(value)), value)
    if feature.transform == "sqrt":
        value = math.copysign(math.sqrt(abs(value)), value)
    return (value - (feature.mean or 0)) / (feature.scale or 1)


def slow_dense(row: dict[str, Any], feature: DenseFeature) -> list[float]:
    value = look_up(row, feature.column)
    if feature.size:
        return [slow_number(entry, feature) for entry in value or [None] * feature.size]
    if feature.since:
        since = look_up(row, feature.since)
        known = value is not None and since is not None
        value = (slow_moment(value) - slow_moment(since)).total_seconds() / 86_400 if known else None
    return [slow_number(value, feature)]


COMPARE = {
    "=": operator.eq,
    "in": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def slow_condition(row: dict[str, Any], tree: Tree) -> bool:
    if tree[0] == "not":
        return not slow_condition(row, tree[1])
    if tree[0] in ("and", "or"):
        verdicts = [slow_condition(row, part) for part in tree[1]]
        return all(verdicts) if tree[0] == "and" else any(verdicts)

    sign, column, values = tree
    found = row.get(column)
    if found is None:
        return False
    if isinstance(found, datetime.date) and isinstance(values[0], datetime.datetime):
        found = slow_moment(found)
    if isinstance(found, bytes):
        found = found.decode()
    return any(COMPARE[sign](found, value) for value in values)


def slow_row(case: Case, row: dict[str, Any], number: int) -> Row:
    features = case.columns.features
    pairs = [slow_ids(row, feature) for feature in features.sparse]
    labels = [
        look_up(row, label.column) if tree is None or slow_condition(row, tree) else None
        for label, tree in zip(case.columns.labels, case.spaces, strict=True)
    ]
    return Row(
        ids=tuple(tuple(key for key, _ in bag) for bag in pairs),
        id_weights=tuple(tuple(weight for _, weight in bag) for bag in pairs) if features.is_weighted else (),
        dense=tuple(value for entry in features.dense for value in slow_dense(row, entry)),
        labels=tuple(0.0 if label is None else float(label) for label in labels),
        label_weights=tuple(
            0.0 if value is None else float(row[label.weight]) if label.weight else 1.0
            for value, label in zip(labels, case.columns.labels, strict=True)
        ),
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
            stored = [row | {"day": window} for row in parquet.read_row_group(index).to_pylist()]
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
        id_weights=((),) * len(case.columns.features.sparse) if case.columns.features.is_weighted else (),
        dense=(0.0,) * case.columns.features.dense_width,
        labels=(0.0,) * len(case.columns.labels),
        label_weights=(0.0,) * len(case.columns.labels),
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
    weights = batch.sparse.weights_or_none()
    ids = bags_of(batch, batch.sparse.values())
    id_weights = [()] * num_rows if weights is None else bags_of(batch, weights)
    others = (batch.dense_BD, batch.labels_BT, batch.label_weights_BT)
    dense, labels, label_weights = ([tuple(row) for row in tensor.tolist()] for tensor in others)
    return list(
        map(Row, ids, id_weights, dense, labels, label_weights, batch.weights_B.tolist(), batch.row_ids_B.tolist())
    )


def bags_of(batch: Batch, values: torch.Tensor) -> list[tuple[tuple[Any, ...], ...]]:
    """What each row has of each feature."""
    num_rows = len(batch.weights_B)
    flat = values.tolist()
    bags = [tuple(flat[begin:end]) for begin, end in pairwise(batch.sparse.offsets().tolist())]
    features = [bags[start : start + num_rows] for start in range(0, len(bags), num_rows)]
    return list(zip(*features, strict=True)) if features else [()] * num_rows


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
