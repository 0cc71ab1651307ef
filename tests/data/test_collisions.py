"""The expected share of ids that share a row, against what hashing does; the number of ids, against the truth."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.collisions import Crowding, crowded_tables, estimate_ids, hashed_tables
from data.columns.decode import Columns
from data.columns.ids import seed_bits
from data.discovery.dataset import read_manifest
from data.discovery.schema import Column
from data.features import Features, SparseFeature
from data.hashing import fold
from data.reading import Reading
from data.storage.writer import write_schema


@pytest.mark.parametrize(("ids", "rows"), [(1000, 1000), (5000, 100_000), (3000, 300), (2, 1), (1, 1), (1, 50)])
def test_the_share_is_what_hashing_does(ids: int, rows: int) -> None:
    places = np.concatenate([fold(np.arange(seed << 32, (seed << 32) + ids), rows) + seed * rows for seed in range(50)])
    counts = np.unique(places, return_counts=True)[1]
    shared = counts[counts > 1].sum() / len(places)
    assert Crowding("t", rows, ids, "").share == pytest.approx(shared, abs=0.006)


@pytest.mark.parametrize(("ids", "rows", "hashes"), [(1000, 2000, 2), (1000, 3000, 3), (300, 1000, 1)])
def test_the_share_by_several_hashes(ids: int, rows: int, hashes: int) -> None:
    shared = []
    for start in range(40):
        numbers = np.arange(start << 32, (start << 32) + ids)
        places = np.stack([fold(numbers ^ np.int64(seed_bits(seed).view(np.int64)), rows) for seed in range(hashes)])
        of_row = np.bincount(places.ravel(), minlength=rows)
        shared.append((of_row[places] > 1).all(axis=0).mean())
    assert Crowding("t", rows, ids, "", hashes).share == pytest.approx(np.mean(shared), abs=0.01)
    good = Crowding("t", rows, ids, "", hashes).good_rows
    assert 0.04 < Crowding("t", good, ids, "", hashes).share <= 0.05


def test_a_good_size_keeps_the_share() -> None:
    for ids in (7, 1234, 50_000, 3_000_000, 10**9):
        rows = Crowding("t", 10, ids, "").good_rows
        assert 0.04 < Crowding("t", rows, ids, "").share <= 0.05


def sample(ids: int, rows: int, exponent: float) -> np.ndarray:
    random = np.random.Generator(np.random.Philox(1))
    weights = np.arange(1, ids + 1) ** -exponent
    return random.choice(ids, rows, p=weights / weights.sum())


@pytest.mark.parametrize("ids", [500, 20_000, 400_000])
def test_ids_that_were_not_met_are_estimated(ids: int) -> None:
    found, source = estimate_ids([sample(ids, 50_000, 0)], 50_000, 10**9)
    assert found == pytest.approx(ids, rel=0.1)
    assert source == "at least, estimated from 50,000 rows"


def test_popular_ids_make_it_a_lower_bound() -> None:
    found, _ = estimate_ids([sample(400_000, 50_000, 1.0)], 50_000, 10**9)
    assert len(np.unique(sample(400_000, 50_000, 1.0))) < found < 400_000


def test_a_new_id_in_every_row_is_as_many_as_rows() -> None:
    assert estimate_ids([np.arange(1000)], 1000, 70_000)[0] == 70_000
    assert estimate_ids([np.arange(1000)], 1000, 1000) == (1000, "all rows")
    assert estimate_ids([], 0, 1000)[0] == 0


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    numbers = np.arange(1000)
    texts = [f"u{number % 100}" for number in numbers]
    lists = pa.array([[int(number), 5000] for number in numbers])
    table = pa.table({"user": texts, "item": numbers % 300, "recent": lists, "hour": numbers % 24})
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "a.parquet", row_group_size=100)
    sparse = (
        SparseFeature(column="user", table="user", hash=True),
        SparseFeature(column="item", table="item", hash=True),
        SparseFeature(column="recent", table="item", hash=True),
        SparseFeature(column="hour", table="hour"),
    )
    columns = Columns(Features(sparse=sparse), {"user": 100, "item": 20_020, "hour": 24}, ())
    return Reading(read_manifest(str(tmp_path / "train"), cache=None), columns, 10, 2, "shuffled", 0)


def test_features_of_one_table_count_together(reading: Reading) -> None:
    """And an id table that is not hashed has no collisions."""
    found = {entry.table: entry for entry in hashed_tables(reading)}
    assert {name: (entry.ids, entry.rows, entry.source) for name, entry in found.items()} == {
        "user": (100, 100, "all rows"),
        "item": (1001, 20_020, "all rows"),
    }
    assert [entry.table for entry in crowded_tables(reading)] == ["user", "item"]
    assert [entry.is_bad for entry in found.values()] == [True, False]
    assert str(found["user"]) == (
        "table 'user' has 100 rows for 100 ids (all rows): about 63% of them, and of the lookups, are taken for "
        "another id, whose row they share; rows = 2_000 makes it 5%"
    )
    assert "about 5% of them" in str(found["item"])
    assert "makes it" not in str(found["item"])


def test_schema_json_knows_better(reading: Reading, tmp_path: Path) -> None:
    columns = [Column("user", "string", "feature", "", 70_000), Column("item", "int64", "feature", "", 300)]
    write_schema(tmp_path, columns)
    found = {entry.table: (entry.ids, entry.source) for entry in hashed_tables(reading)}
    assert found == {"user": (70_000, "schema.json"), "item": (1001, "all rows")}
