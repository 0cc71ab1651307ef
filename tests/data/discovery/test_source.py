"""Datasets of several places, patterns and partitions: which files they are, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from data.discovery.dataset import read_manifest
from data.discovery.source import find, find_root, source_of
from data.errors import DataError
from data.manifest import Manifest
from data.storage.filesystem import open_uri
from data.storage.manifest_file import load_manifest, save_manifest

DAYS = ("2022-04-25", "2022-04-26", "2022-05-01")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A day a folder, two tabs each; every file holds one row with its number."""
    root = tmp_path / "logs"
    for number, day in enumerate(DAYS):
        for tab in (0, 1):
            folder = root / f"dt={day}" / f"tab={tab}"
            folder.mkdir(parents=True)
            pq.write_table(pa.table({"x": [10 * number + tab]}), folder / "part.parquet")
    (root / "_SUCCESS").touch()
    return root


def rows(manifest: Manifest) -> list[int]:
    return [
        pq.read_table(f"{manifest.root}/{name}" if name else manifest.root, partitioning=None)["x"][0].as_py()
        for name in manifest.files
    ]


def read(*uris: Path | str, where: str | None = None) -> Manifest:
    return read_manifest(source_of([str(uri) for uri in uris], where), cache=None)


def test_patterns(logs: Path) -> None:
    manifest = read(logs / "dt=2022-04-*" / "tab=1")
    assert rows(manifest) == [1, 11]
    assert manifest.root == str(logs)
    assert manifest.keys["dt"].to_pylist() == [pa.scalar(day).cast(pa.date32()).as_py() for day in DAYS[:2]]
    assert rows(read(logs / "dt=*" / "tab=[0]" / "*.parquet")) == [0, 10, 20]
    assert rows(read(logs / "*")) == [0, 1, 10, 11, 20, 21]
    assert rows(read(logs / "dt=2022-0?-01")) == [20, 21]


def test_a_path_that_exists_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "day[1]").mkdir()
    pq.write_table(pa.table({"x": [7]}), tmp_path / "day[1]" / "a.parquet")
    assert rows(read(tmp_path / "day[1]")) == [7]


def test_lists_of_folders_and_files(logs: Path) -> None:
    manifest = read(logs / "dt=2022-05-01", logs / "dt=2022-04-25" / "tab=0" / "part.parquet")
    assert rows(manifest) == [0, 20, 21]
    assert manifest.root == str(logs)
    assert list(manifest.keys) == ["dt", "tab"]


def test_one_entry_is_as_good_as_none(logs: Path) -> None:
    alone, listed = read_manifest(str(logs), cache=None), read(logs)
    assert alone.fingerprint == listed.fingerprint
    assert alone.root == listed.root


def test_where(logs: Path) -> None:
    assert rows(read(logs, where="dt >= 2022-04-26 and dt < 2022-05-05")) == [10, 11, 20, 21]
    assert rows(read(logs, where="tab = 1")) == [1, 11, 21]
    assert rows(read(logs / "dt=2022-04-*", where="tab = 0 and dt = 2022-04-26")) == [10]


def test_what_is_not_wanted_is_not_opened(logs: Path) -> None:
    """Not even listed: a folder without permission, a damaged file."""
    (logs / "dt=2022-04-25" / "tab=0" / "part.parquet").write_bytes(b"PAR1 is damaged")
    (logs / "dt=2022-04-25" / "looks-like.parq").touch()
    assert rows(read(logs, where="dt > 2022-04-25")) == [10, 11, 20, 21]


def test_a_store_is_listed_folder_by_folder(logs: Path) -> None:
    listed: list[str] = []

    class Watching(fs.FileSystemHandler):  # type: ignore[misc]
        """The local disk behind a store's face."""

        local = fs.LocalFileSystem()

        def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
            return list(self.local.get_file_info(paths))

        def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
            listed.append(selector.base_dir)
            return list(self.local.get_file_info(selector))

        def __getattr__(self, name: str) -> object:
            return getattr(self.local, name)

        for _name in fs.FileSystemHandler.__abstractmethods__ - {"get_file_info", "get_file_info_selector"}:
            vars()[_name] = None

    from data.discovery.listing import list_dataset

    store = fs.PyFileSystem(Watching())
    found = list_dataset(store, str(logs), "store://", prune=lambda path: "04-25" in path)
    assert len(found.files) == 4
    assert sorted(listed) == sorted(
        [str(logs)]
        + [f"{logs}/dt={day}" for day in DAYS[1:]]
        + [f"{logs}/dt={day}/tab={tab}" for day in DAYS[1:] for tab in (0, 1)]
    )


def test_the_manifest_keeps_where_it_is_from(logs: Path, tmp_path: Path) -> None:
    manifest = read(logs / "dt=2022-04-25", logs / "dt=2022-05-01", where="tab = 0")
    save_manifest(manifest, tmp_path / "kept")
    kept = load_manifest(tmp_path / "kept")
    assert kept.source == manifest.source
    assert find_root(kept.source) == manifest.root
    assert rows(kept) == [0, 20]
    assert kept.keys["tab"].to_pylist() == [0, 0]


def test_the_cache_knows_the_condition(logs: Path, tmp_path: Path) -> None:
    for where, expected in (("tab = 0", [0, 10, 20]), ("tab = 1", [1, 11, 21]), ("tab = 0", [0, 10, 20])):
        assert rows(read_manifest(source_of(str(logs), where), cache=tmp_path / "cache")) == expected


def errors(logs: Path) -> Iterator[tuple[list[str], str | None, str]]:
    yield [f"{logs}/dt=2023-*"], None, "no file or folder matches the pattern"
    yield [f"{logs}/nothing*/x"], None, "no file or folder matches the pattern"
    yield [str(logs), f"{logs}/dt=2022-04-25"], None, "dt=2022-04-25/tab=0/part.parquet is named twice"
    yield [f"{logs}/dt=*", str(logs)], None, "is named twice"
    yield [str(logs), "mock:///logs"], None, "mock:///logs is not in the store of"
    yield [str(logs)], "dt > 2030-01-01", "fits none of its partitions"
    yield [str(logs)], "hour = 3", "asks for 'hour', which is no key of the folders of dt=2022-04-25/tab=0"
    yield [str(logs)], "tab = 2022-04-25", "'tab' is compared with a date, 2022-04-25, but a folder is called 'tab=0'"
    yield [str(logs), f"{logs}/gone"], None, "gone: no such file or folder"


@pytest.mark.parametrize("case", range(9))
def test_refused(logs: Path, case: int) -> None:
    uris, where, message = list(errors(logs))[case]
    with pytest.raises(DataError) as error:
        find(source_of(uris, where))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_link_to_a_folder_that_is_named_too(logs: Path) -> None:
    (logs.parent / "again").symlink_to(logs / "dt=2022-04-25")
    with pytest.raises(DataError, match="is named twice"):
        read(logs, logs.parent / "again")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA123:hunter2@bucket/logs",
        "s3://AKIA123@bucket/logs",
        "s3://bucket/logs?secret_key=hunter2",
        "s3://bucket/logs?access_key=hunter2&region=x",
        "s3://bucket/logs?session_token=hunter2",
        "abfss://container@account.dfs.core.windows.net/logs?sas_token=hunter2",
        "abfs://account:hunter2@container/logs",
        "hdfs://user:hunter2@host/logs",
    ],
)
def test_credentials_are_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(DataError, match="holds credentials") as error:
        open_uri(uri)
    assert "hunter2" not in str(error.value)
    assert "AKIA" not in str(error.value)


def test_folders_that_are_not_complete_wait(logs: Path, tmp_path: Path) -> None:
    source = source_of(str(logs), complete="_DONE")
    (logs / "dt=2022-04-25" / "tab=1" / "_DONE").touch()
    for cached in (False, True):
        manifest = read_manifest(source, tmp_path / "cache")
        assert rows(manifest) == [1], cached
        shown = "dt=2022-04-25/tab=0, dt=2022-04-26/tab=0, dt=2022-04-26/tab=1, …"
        assert manifest.waiting_note == f"5 windows wait for '_DONE': {shown}"

    for folder in logs.glob("*/*"):
        (folder / "_DONE").touch()
    assert read_manifest(source, tmp_path / "cache").waiting_note is None
    assert read(logs).waiting_note is None
