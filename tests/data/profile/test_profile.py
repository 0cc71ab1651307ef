"""One pass over a dataset against a slow reading of it in plain Python."""

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data.profile.counts
from data.discovery.dataset import read_manifest
from data.discovery.source import source_of
from data.errors import DataError
from data.manifest import Manifest
from data.profile.counts import ValueCounts
from data.profile.dataset import DatasetProfile, Wanted, profile_dataset
from data.profile.sample import RowSample
from data.profile.summary import Summary, summarise


def profiled(manifest: Manifest, **options: Any) -> DatasetProfile:
    return profile_dataset(manifest, progress=lambda _: None, **options)


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.decimal128(20, 0), pa.list_(pa.int64())], ids=str)
def test_ids_of_64_bits(tmp_path: Path, kind: pa.DataType) -> None:
    ids = [2**62 + 1, 2**63 - 1, 2**53 + 1, 2**53 + 1]
    pq.write_table(
        pa.table({"id": pa.array([[number] for number in ids] if kind == pa.list_(pa.int64()) else ids, kind)}),
        tmp_path / "x.parquet",
    )
    column = profiled(read_manifest(str(tmp_path), cache=None)).columns["id"]
    assert (column.rows, column.num_values) == (4, 3)
    assert column.numbers.high == 2.0**63


def test_a_dataset_without_a_column_that_can_be_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"deep": [[[1]], [[2]]]}), tmp_path / "x.parquet")
    manifest = read_manifest(str(tmp_path), cache=None)
    profile = profiled(manifest, wanted=Wanted(contents=True))
    assert list(profile.looked.left_out) == ["deep"]
    assert summarise(profile, manifest) == []


# ---- counts of values


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([-3, 0, 1, 5, 1 << 19, 1 << 20, 1 << 40]), max_size=30), max_size=6))
def test_counts_equal_a_counter(blocks: list[list[int]]) -> None:
    first, second = ValueCounts(), ValueCounts()
    for number, block in enumerate(blocks):
        (first if number % 2 else second).add(pa.array(block, pa.int64()))
    first.join(second)
    expected = Counter(value for block in blocks for value in block)
    found = {entry["value"]: entry["count"] for entry in first.table.to_pylist()}
    assert found == dict(expected)
    assert first.num_values == len(expected)
    counts = first.table["count"].to_pylist()
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.float32(), pa.binary(), pa.bool_()]
)
def test_values_of_every_kind_are_counted(kind: pa.DataType) -> None:
    values = [0, 1, 1] if kind in (pa.float32(), pa.bool_()) else ["0", "1", "1"]
    array = pa.array([str(value).encode() for value in values], kind) if kind == pa.binary() else pa.array(values)
    counts = ValueCounts()
    counts.add(array.dictionary_encode() if pa.types.is_dictionary(kind) else array.cast(kind))
    counts.add(array.slice(0, 1).cast(kind) if not pa.types.is_dictionary(kind) else array.slice(0, 1))
    assert [entry["count"] for entry in counts.table.to_pylist()] == [2, 2]


def test_only_the_most_frequent_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.profile.counts, "MOST", 100)
    monkeypatch.setattr(data.profile.counts, "_FEWEST_ADDED", 50)
    counts = ValueCounts()
    rng = np.random.default_rng(0)
    for _ in range(100):
        counts.add(pa.array((1 << 30) + np.concatenate([np.arange(60) % 20, rng.integers(100, 400, 30)])))
    assert not counts.is_exact
    top = counts.table.slice(0, 20)
    assert sorted(top["value"].to_pylist()) == list(range(1 << 30, (1 << 30) + 20))
    assert counts.num_values == 320


def test_many_values_are_estimated_and_ids_of_rows_are_not_kept() -> None:
    counts = ValueCounts()
    for start in range(0, 400_000, 50_000):
        counts.add(pa.array((1 << 40) + np.arange(start, start + 50_000)))
    assert not counts.repeats
    assert counts.num_values == pytest.approx(400_000, rel=0.04)
    assert counts.table.num_rows == 0


# ---- rows drawn from all


def test_the_sample_does_not_depend_on_how_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.profile.sample.ROWS", 50)
    whole, parts = RowSample(), [RowSample() for _ in range(3)]
    table = pa.table({"x": list(range(1000))})
    whole.add(table, np.arange(1000))
    for number, start in enumerate(range(0, 1000, 100)):
        parts[number % 3].add(table.slice(start, 100), np.arange(start, start + 100))
    parts[0].join(parts[1])
    parts[0].join(parts[2])
    assert sorted(parts[0].table["x"].to_pylist()) == sorted(whole.table["x"].to_pylist())
    assert whole.table.num_rows == 50


# ---- a dataset


def values_of(rng: random.Random, count: int) -> dict[str, list[Any]]:
    return {
        "user": [rng.choice([None, *range(40)]) for _ in range(count)],
        "word": [rng.choice(["a", "b", "wörd", None]) for _ in range(count)],
        "tags": [[rng.randrange(5) for _ in range(rng.randrange(4))] for _ in range(count)],
        "price": [rng.choice([None, math.nan, math.inf, rng.random()]) for _ in range(count)],
        "click": [rng.randrange(2) for _ in range(count)],
        "geo": [{"city": rng.choice(["x", "y"])} for _ in range(count)],
        "deep": [[[1]]] * count,
    }


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Manifest, dict[str, list[Any]]]:
    """Three days; the last file has other types and a column more."""
    rng = random.Random(5)
    everything: dict[str, list[Any]] = {}
    for day in range(3):
        values = values_of(rng, 200)
        for name, column in values.items():
            everything.setdefault(name, []).extend(column)
        table = pa.table({name: pa.array(column, from_pandas=False) for name, column in values.items()})
        if day == 2:
            table = table.set_column(0, "user", table["user"].cast(pa.float64())).append_column("new", table["click"])
        folder = tmp_path / f"dt=2022-04-0{day + 1}"
        folder.mkdir()
        pq.write_table(table, folder / "a.parquet", row_group_size=37)
    return read_manifest(source_of(str(tmp_path)), cache=None), everything


@pytest.mark.parametrize("threads", [1, 3])
def test_a_profile_equals_a_slow_reading(dataset: tuple[Manifest, dict[str, list[Any]]], threads: int) -> None:
    manifest, values = dataset
    profile = profiled(manifest, threads=threads)
    found = {entry.column: entry for entry in summarise(profile, manifest)}
    assert list(found) == ["user", "word", "tags", "price", "click", "geo.city", "new", "dt"]
    assert list(profile.looked.left_out) == ["deep"]

    assert found["user"].nulls == values["user"].count(None)
    assert found["new"].nulls == 400
    assert found["word"].top[0] == Counter(filter(None, values["word"])).most_common(1)[0]
    assert found["word"].distinct == 3
    assert found["geo.city"].distinct == 2
    lengths = [len(tags) for tags in values["tags"]]
    assert (found["tags"].length, found["tags"].longest) == (pytest.approx(np.mean(lengths)), max(lengths))
    assert sum(count for _, count in found["tags"].top) == sum(lengths)
    assert found["dt"].low == "2022-04-01 00:00"

    prices = [price for price in values["price"] if price is not None and math.isfinite(price)]
    price = found["price"]
    assert price.not_finite == len([price for price in values["price"] if price is not None]) - len(prices)
    assert (price.low, price.high) == (min(prices), max(prices))
    assert price.mean == pytest.approx(np.mean(prices))
    assert price.deviation == pytest.approx(np.std(prices))
    assert price.quantiles == tuple(np.quantile(prices, (0.01, 0.25, 0.5, 0.75, 0.99), method="inverted_cdf"))

    click = profile.columns["click"]
    assert click.is_binary
    assert not profile.columns["user"].is_binary
    by_day = [values["click"][start : start + 200] for start in (0, 200, 400)]
    assert found["click"].rates == {
        f"dt=2022-04-0{day + 1}": pytest.approx(np.mean(clicks)) for day, clicks in enumerate(by_day)
    }
    assert found["user"].rates is None
    assert click.by_window == {day: (sum(clicks), 200) for day, clicks in enumerate(by_day)}


def test_shares_make_a_whole(dataset: tuple[Manifest, dict[str, list[Any]]]) -> None:
    manifest, _ = dataset
    whole = summarise(profiled(manifest), manifest)
    first, *others = (profiled(manifest, share=(share, 3)) for share in range(3))
    for other in others:
        first.join(other)
    for one, two in zip(whole, summarise(first, manifest), strict=True):
        assert _rounded(one) == _rounded(two)


def _rounded(entry: Summary) -> tuple[Any, ...]:
    numbers = (entry.mean, entry.deviation)
    rounded = tuple(None if number is None else round(number, 9) for number in numbers)
    return (
        entry.column,
        entry.kind,
        entry.rows,
        entry.nulls,
        entry.distinct,
        entry.low,
        entry.high,
        entry.top,
        *rounded,
    )


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": ["text"] * 100}), tmp_path / "a.parquet", compression="none", use_dictionary=False)
    content = (tmp_path / "a.parquet").read_bytes()
    manifest = read_manifest(str(tmp_path), cache=None)
    (tmp_path / "a.parquet").write_bytes(content.replace(b"text", b"te\xff\xfe"))
    with pytest.raises(DataError, match=r"row group 0 of .*a.parquet"):
        profiled(manifest)


def test_files_may_differ_in_types_and_in_fields(tmp_path: Path) -> None:
    """As those of several writers: encodings, widths, units, fields of structs."""
    first = {
        "device": pa.array(["ios", "web"]).dictionary_encode(),
        "user": pa.array([1, 2], pa.int32()),
        "at": pa.array([0, 86_400], pa.timestamp("s")),
        "geo": pa.array([{"city": "a"}, {"city": "b"}]),
        "tags": pa.array([[1], [2]], pa.list_(pa.int8())),
    }
    second = {
        "device": pa.array(["web", None], pa.large_string()),
        "user": pa.array([2.0, None]),
        "at": pa.array([0, 86_400_000], pa.timestamp("ms", "UTC")),
        "geo": pa.array([{"city": "a", "zip": 5}, None]).cast(pa.struct({"city": pa.large_string(), "zip": pa.int8()})),
        "tags": pa.array([[1], None], pa.large_list(pa.int64())),
    }
    for number, columns in enumerate((first, second)):
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    manifest = read_manifest(str(tmp_path), cache=None)
    profile = profiled(manifest)
    found = {entry.column: entry for entry in summarise(profile, manifest)}
    assert list(found) == ["device", "user", "at", "geo.city", "geo.zip", "tags"]
    assert [found[name].distinct for name in ("device", "user", "geo.city", "tags")] == [2, 2, 2, 2]
    assert found["geo.zip"].nulls == 3
    assert profile.columns["at"].is_whole
    assert profile.sample.table.num_rows == 4
