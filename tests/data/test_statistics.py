"""Means and deviations that a new model starts from."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data import statistics
from data.columns.decode import Columns
from data.columns.numbers import Label
from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.features import DenseFeature, Features, SparseFeature
from data.reading import Reading
from data.statistics import Moments, join, measure, moments, sampled_groups

VALUES = arrays.arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e6, 1e6) | st.just(np.nan))


@given(VALUES, VALUES)
def test_moments_of_parts_join_to_those_of_the_whole(one: np.ndarray, other: np.ndarray) -> None:
    weights = [np.linspace(0.5, 2, len(part)) for part in (one, other)]
    found = join(moments(one, weights[0]), moments(other, weights[1]))
    expected = moments(np.concatenate([one, other]), np.concatenate(weights))
    assert found.mean == pytest.approx(expected.mean, rel=1e-9, abs=1e-6)
    assert found.deviation == pytest.approx(expected.deviation, rel=1e-9, abs=1e-6)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert (found.count, found.weight) == (expected.count, pytest.approx(expected.weight))


def test_moments_by_weight() -> None:
    found = moments(np.array([1.0, 4.0, np.nan, np.inf, 9.0]), np.array([3.0, 1.0, 5.0, 5.0, 0.0]))
    assert found == Moments(mean=1.75, deviation=np.sqrt(27 / 16), weight=4.0, count=2, low=1.0, high=4.0)


def write(folder: Path, columns: dict[str, pa.Array], row_group_rows: int = 100) -> Path:
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "part.parquet", row_group_size=row_group_rows)
    return folder


def reading_of(folder: Path, columns: Columns) -> Reading:
    return Reading(read_manifest(str(folder), cache=None), columns, 64, 4, "shuffled", seed=1)


def test_measured_columns(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    clock_ms = 1_700_000_000_000 + random.integers(0, 1_000, 1000)
    counts = random.exponential(100, 1000)
    click = random.random(1000) < 0.1
    weight = random.random(1000)
    columns = {
        "clock_ms": pa.array(clock_ms),
        "plays": pa.array(counts, mask=np.arange(1000) % 5 == 0),
        "click": pa.array(click, mask=np.arange(1000) % 3 == 0),
        "weight": pa.array(weight),
    }
    features = Features(
        dense=(DenseFeature(column="clock_ms"), DenseFeature(column="plays", transform="log1p")),
    )
    read = Columns(features, {}, (Label("click", binary=True),), weight="weight")
    found = measure(reading_of(write(tmp_path / "data", columns), read))

    clock, plays = found.dense[0]["none"], found.dense[1]["log1p"]
    assert found.dense[1].keys() == {"log1p"}
    assert clock.reach < 2
    assert clock.mean == pytest.approx(clock_ms.mean(), rel=1e-12)
    assert clock.deviation == pytest.approx((clock_ms - clock_ms[0]).std(), rel=1e-6)  # a float32 would make 0 of it
    known = np.log1p(counts[np.arange(1000) % 5 != 0])
    assert (plays.mean, plays.deviation) == pytest.approx((known.mean(), known.std()))
    labelled = np.arange(1000) % 3 != 0
    expected = np.average(click[labelled], weights=weight[labelled])
    assert found.labels[0].mean == pytest.approx(expected, rel=1e-6)


def test_a_bad_label_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", {"click": pa.array([0, 1, 2, 0])}, 2)
    with pytest.raises(DataError, match=r"row 0 of row group 1 of .*label 'click' is 2"):
        measure(reading_of(folder, Columns(Features(), {}, (Label("click", binary=True),))))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_value_beyond_float32_is_named(tmp_path: Path, groups: int) -> None:
    """Its square would make the scale infinite, and the column 0 in every row."""
    folder = write(tmp_path / "data", {"age": pa.array([1.0, 2.0, 3.0, 1e308])}, 4 // groups)
    for open_keys in ({}, {"transform": "none"}, {"mean": 0.0}):
        columns = Columns(Features(dense=(DenseFeature(column="age", **open_keys),)), {}, ())  # type: ignore[arg-type]
        with pytest.raises(
            DataError, match=r"row \d of row group \d of .*: column 'age' is 1e\+308, more than 3\.4e\+38"
        ):
            measure(reading_of(folder, columns))


def test_a_value_beyond_float32_is_measured_as_a_logarithm(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", {"age": pa.array([1.0, 2.0, 3.0, 1e308])}, 2)
    columns = Columns(Features(dense=(DenseFeature(column="age", transform="log1p"),)), {}, ())
    found = measure(reading_of(folder, columns)).dense[0]["log1p"]
    assert found.high == pytest.approx(np.log(1e308))
    assert np.isfinite(found.deviation)


def test_rows_are_measured_all_over_a_large_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "ROWS", 100)
    assert sampled_groups(np.array([50, 50])) == [0, 1]
    assert sampled_groups(np.full(20, 50)) == [5, 15]
    assert sampled_groups(np.array([1000])) == [0]
    assert sampled_groups(np.array([1] * 50 + [950])) == [50]  # the rows are what counts


def test_quantiles_are_values_with_equally_many_between(tmp_path: Path) -> None:
    """Of 1 … 100 in four buckets: 25, 50 and 75; a value that fills several buckets bounds one."""
    columns = {
        "x": pa.array([float(value) for value in range(1, 101)]),
        "mostly": pa.array([0] * 90 + list(range(1, 11))),
        "lists": pa.array([[value, None, value] for value in range(100)]),
        "null": pa.nulls(100, pa.float32()),
        "y": pa.array([0, 1] * 50),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=30)
    names = ("x", "mostly", "lists", "null")
    sparse = tuple(SparseFeature(column=name, table="t", boundaries="quantiles:4") for name in names)
    reading = Reading(
        read_manifest(str(tmp_path), cache=None),
        Columns(Features(sparse=sparse), {"t": 4}, (Label("y", binary=True),)),
        global_batch_size=10,
        lanes=1,
        order="stored",
        seed=0,
    )
    assert measure(reading).boundaries == {
        "x": (25.0, 50.0, 75.0),
        "mostly": (1.0,),
        "lists": (24.0, 49.0, 74.0),
        "null": (0.0,),
    }
