"""Counts that were stored are those of the dataset as it is, or none."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.profile.stored
from data.discovery.dataset import read_manifest
from data.manifest import Manifest
from data.profile.dataset import profile_dataset
from data.profile.stored import store_counts, stored_counts

COLUMNS = ["word", "number", "geo.city"]


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr(data.profile.stored, "CACHE", tmp_path / "cache")
    return write(tmp_path, ["a", "b", "b"])


def write(folder: Path, words: list[str]) -> Manifest:
    (folder / "train").mkdir(exist_ok=True)
    table = pa.table({"word": words, "number": [1, 2, 2], "geo": [{"city": "x"}] * 3})
    pq.write_table(table, folder / "train" / "a.parquet")
    return read_manifest(str(folder / "train"), cache=None)


def store(manifest: Manifest) -> str | None:
    return store_counts(manifest, profile_dataset(manifest, COLUMNS, progress=lambda _: None))


def test_what_is_stored_is_found(manifest: Manifest, tmp_path: Path) -> None:
    assert stored_counts(manifest, COLUMNS) == {}
    assert store(manifest) == f"{tmp_path}/_adatt/{manifest.fingerprint[:16]}"
    found = stored_counts(manifest, [*COLUMNS, "other"])
    assert list(found) == COLUMNS
    assert found["word"].table.to_pylist() == [{"value": "b", "count": 2}, {"value": "a", "count": 1}]
    assert found["geo.city"].is_exact
    assert read_manifest(str(tmp_path), cache=None).files == ("train/a.parquet",), "it is no data"


def test_of_another_dataset_nothing_is_found(manifest: Manifest, tmp_path: Path) -> None:
    store(manifest)
    assert stored_counts(write(tmp_path, ["a", "b", "c"]), COLUMNS) == {}
    assert list(stored_counts(write(tmp_path, ["a", "b", "b"]), COLUMNS)) == COLUMNS


def test_damaged_counts_are_none(manifest: Manifest, tmp_path: Path) -> None:
    store(manifest)
    for path in (tmp_path / "_adatt").rglob("*.arrow"):
        path.write_bytes(path.read_bytes()[:-20])
    assert stored_counts(manifest, COLUMNS) == {}


def test_where_the_folder_cannot_be_written_the_cache_is(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "_adatt").write_text("a file in its place")
    assert store(manifest) == f"{tmp_path}/cache/{manifest.fingerprint[:16]}"
    assert list(stored_counts(manifest, COLUMNS)) == COLUMNS

    (tmp_path / "cache").rename(tmp_path / "gone")
    (tmp_path / "cache").write_text("")
    assert store(manifest) is None
    assert stored_counts(manifest, COLUMNS) == {}
