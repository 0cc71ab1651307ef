"""Files are opened once for all of their row groups, and never stay open without bound."""

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


def test_a_file_is_opened_once_for_all_its_row_groups(manifest: Manifest, opened: list[pa.NativeFile]) -> None:
    files = OpenFiles(manifest)
    assert [read(files, manifest, group) for group in range(8)] == [[group] for group in range(8)]
    assert len(opened) == 2
    files.close()
    assert all(file.closed for file in opened)


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
    assert not files._idle


def test_two_threads_never_share_one(manifest: Manifest, opened: list[pa.NativeFile]) -> None:
    files = OpenFiles(manifest)
    with files.lend(0) as one, files.lend(1) as other:
        assert one is not other
    files.close()
    assert len(opened) == 2
    assert all(file.closed for file in opened)


def test_footers_are_kept_up_to_a_bound(
    manifest: Manifest, opened: list[pa.NativeFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the 16 files used last whatever their size; the others close."""
    monkeypatch.setattr(data.pipeline.open_files, "MOST_COLUMN_CHUNKS", 0)
    files = OpenFiles(manifest)
    for group in range(0, 20 * GROUPS, GROUPS):
        read(files, manifest, group)
    assert [file.closed for file in opened] == [True] * 4 + [False] * 16
    files.close()


def test_a_file_on_which_reading_fails_is_closed(manifest: Manifest, opened: list[pa.NativeFile]) -> None:
    files = OpenFiles(manifest)
    with pytest.raises(OSError, match="damaged"), files.lend(0):
        raise OSError("damaged")
    assert opened[0].closed
    read(files, manifest, 0)
    assert len(opened) == 2
    files.close()
