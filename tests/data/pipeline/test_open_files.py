"""Files are opened once for all of their row groups, and never stay open without bound."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.pipeline.open_files
from data.discovery.dataset import read_manifest
from data.manifest import Manifest
from data.pipeline.open_files import OpenFiles

GROUPS = 4


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """20 files of four row groups each."""
    for number in range(20):
        table = pa.table({"x": range(number * GROUPS, (number + 1) * GROUPS)})
        pq.write_table(table, tmp_path / f"part-{number:02}.parquet", row_group_size=1)
    return read_manifest(str(tmp_path), cache=None)


@pytest.fixture
def opened(manifest: Manifest) -> list[pa.NativeFile]:
    """Every file that is opened, in order."""
    files: list[pa.NativeFile] = []
    real = manifest.filesystem

    def open_input_file(path: str) -> pa.NativeFile:
        files.append(real.open_input_file(path))
        return files[-1]

    manifest.__dict__["filesystem"] = SimpleNamespace(open_input_file=open_input_file)
    return files


def read(files: OpenFiles, manifest: Manifest, group: int) -> list[int]:
    with files.lend(group) as parquet:
        return parquet.read_row_group(int(manifest.group[group]))["x"].to_pylist()


def still_open(opened: list[pa.NativeFile]) -> list[bool]:
    """Of the files, in order; the list itself lets go of them."""
    handles = [weakref.ref(file) for file in opened]
    opened.clear()
    gc.collect()
    return [handle() is not None for handle in handles]


def test_a_file_is_opened_once_for_all_its_row_groups(manifest: Manifest, opened: list[pa.NativeFile]) -> None:
    files = OpenFiles(manifest)
    assert [read(files, manifest, group) for group in range(8)] == [[group] for group in range(8)]
    assert len(opened) == 2
    files.close()
    assert still_open(opened) == [False] * 2


def test_an_idle_file_holds_nothing_of_what_was_read(tmp_path: Path) -> None:
    """Its bytes would be kept for each of hundreds of files."""
    for number in range(20):
        random = np.random.default_rng(number).random(1 << 16)
        pq.write_table(pa.table({"x": random}), tmp_path / f"{number}.parquet", row_group_size=1 << 15)
    manifest = read_manifest(str(tmp_path), cache=None)
    files = OpenFiles(manifest)
    before = pa.total_allocated_bytes()
    for group in range(40):
        with files.lend(group) as parquet:
            parquet.read_row_group(int(manifest.group[group]))
    del parquet
    assert pa.total_allocated_bytes() - before < 1 << 21  # of 10 MB; the last read may still be ending
    files.close()


def test_a_file_with_one_row_group_closes_at_once(tmp_path: Path) -> None:
    """Nothing else is due of it: ten thousand of them would be open in vain."""
    pq.write_table(pa.table({"x": [1]}), tmp_path / "part-00.parquet")
    manifest = read_manifest(str(tmp_path / "part-00.parquet"), cache=None)
    files = OpenFiles(manifest)
    with files.lend(0) as parquet:
        assert parquet.read_row_group(0).num_rows == 1
    assert not files._kept


def test_two_threads_read_one_file_at_once(manifest: Manifest, opened: list[pa.NativeFile]) -> None:
    files = OpenFiles(manifest)
    read(files, manifest, 0)
    with files.lend(1) as one, files.lend(2) as other:
        assert one is not other
        assert (one.read_row_group(1)["x"].to_pylist(), other.read_row_group(2)["x"].to_pylist()) == ([1], [2])
    assert len(opened) == 1


def test_many_threads_read_what_one_does(tmp_path: Path) -> None:
    numbers = np.arange(1 << 16)
    pq.write_table(pa.table({"x": numbers}), tmp_path / "a.parquet", row_group_size=1 << 10)
    manifest = read_manifest(str(tmp_path), cache=None)
    files = OpenFiles(manifest)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda group: read(files, manifest, group % 64), range(256)))
    assert found == numbers.reshape(64, -1).tolist() * 4


def test_footers_are_kept_up_to_a_bound(
    manifest: Manifest, opened: list[pa.NativeFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the 4 files used last whatever their size; the others close."""
    monkeypatch.setattr(data.pipeline.open_files, "MOST_COLUMN_CHUNKS", 0)
    files = OpenFiles(manifest)
    for group in range(0, 20 * GROUPS, GROUPS):
        read(files, manifest, group)
    assert still_open(opened) == [False] * 16 + [True] * 4
    assert files._column_chunks == 4 * GROUPS
    files.close()


def test_a_file_on_which_reading_fails_is_opened_anew(manifest: Manifest, opened: list[pa.NativeFile]) -> None:
    files = OpenFiles(manifest)
    read(files, manifest, 1)
    with pytest.raises(OSError, match="damaged"), files.lend(0):
        raise OSError("damaged")
    assert files._column_chunks == 0
    read(files, manifest, 0)
    assert len(opened) == 2
