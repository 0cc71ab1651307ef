"""What lies in a dataset's folder: nothing is missed in silence, and nothing counts twice."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

import data.discovery.listing
from data.discovery.dataset import read_manifest
from data.discovery.listing import LOOKS, LOOKS_PER_SUFFIX, list_dataset
from data.errors import DataError
from data.storage.manifest_file import load_manifest, save_manifest


def write(path: Path, rows: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": range(rows)}), path)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write(tmp_path / "dataset" / "day=1" / "a.parquet")
    return tmp_path / "dataset"


def names(root: Path) -> list[str]:
    found = list_dataset(fs.LocalFileSystem(), str(root), str(root))
    return [entry.path.removeprefix(f"{root}/") for entry in found.files]


def unread(root: Path) -> tuple[str, ...]:
    return list_dataset(fs.LocalFileSystem(), str(root), str(root)).unread


def expect_error(root: Path, message: str, uri: str | None = None) -> None:
    with pytest.raises(DataError) as raised:
        read_manifest(uri or str(root), cache=None)
    assert str(raised.value) == f"dataset {uri or root}: {message}"


# ---- not read


LOOKS_LIKE_DATA = (
    "look{s} like data, but only names that end in .parquet are read; "
    "unpack or rename what belongs to it, and move away what does not"
)


@pytest.mark.parametrize(
    "name",
    [
        "b.parq",
        "b.PARQUET",
        "b.pq",
        "b.parquet.snappy",
        "day=1/b.Parquet",
        "day=2/000000_0",
        "part-00000",
        "ab12_1029384756_data.0.",
        "b.parquet.tmp",
        "b.backup",
    ],
)
def test_a_parquet_file_of_another_name_is_named(dataset: Path, name: str) -> None:
    """Hive, Impala, tools of others, a writer at work."""
    write(dataset / name)
    expect_error(dataset, f"1 file: {name} {LOOKS_LIKE_DATA.format(s='s')}")


def test_a_packed_file_is_named(dataset: Path) -> None:
    path = dataset / "b.parquet.gz"
    path.write_bytes(gzip.compress(b"PAR1"))
    expect_error(dataset, f"1 file: b.parquet.gz {LOOKS_LIKE_DATA.format(s='s')}")


def test_an_encrypted_file_is_named(dataset: Path) -> None:
    (dataset / "b.encrypted").write_bytes(b"PARE" * 4)
    expect_error(dataset, f"1 file: b.encrypted {LOOKS_LIKE_DATA.format(s='s')}")


def test_a_folder_of_other_names_alone_is_named(tmp_path: Path) -> None:
    for task in range(12):
        write(tmp_path / f"{task:06}_0")
    expect_error(tmp_path, f"4 files: 000000_0, 000001_0, 000002_0, … {LOOKS_LIKE_DATA.format(s='')}")


def test_what_is_no_data_is_told(dataset: Path, tmp_path: Path) -> None:
    assert read_manifest(str(dataset), cache=None).unread_note is None
    for name in ("README.md", "day=1/notes.txt", "day=1/b.csv", "z"):
        (dataset / name).write_text("PAR: a text")
    assert unread(dataset) == ("README.md", "day=1/b.csv", "day=1/notes.txt", "z")
    manifest = read_manifest(str(dataset), tmp_path / "cache")
    note = f"dataset {dataset}: only *.parquet is read, not 4 other files: README.md, day=1/b.csv, day=1/notes.txt, …"
    assert manifest.unread_note == note
    assert read_manifest(str(dataset), tmp_path / "cache").unread_note == note
    save_manifest(manifest, tmp_path / "kept")
    assert load_manifest(tmp_path / "kept").unread_note == note


def test_files_not_read_are_no_part_of_the_fingerprint(dataset: Path, tmp_path: Path) -> None:
    before = read_manifest(str(dataset), tmp_path / "cache")
    (dataset / "README.md").write_text("a text")
    now = read_manifest(str(dataset), tmp_path / "cache")
    assert (now.fingerprint, now.unread) == (before.fingerprint, ("README.md",))


HIDDEN = (
    "_SUCCESS",
    "_metadata",
    ".b.parquet.crc",
    "day=1/_temporary/0/b.parquet",
    "part-0.parquet._COPYING_",
    "day=1_$folder$",
    "schema.json",
)


def test_hidden_files_are_not_told(dataset: Path) -> None:
    for name in HIDDEN:
        write(dataset / name)
    assert (names(dataset), unread(dataset)) == (["day=1/a.parquet"], ())


def test_a_partition_whose_key_begins_with_an_underscore_is_data(dataset: Path) -> None:
    """As in Spark."""
    write(dataset / "_day=2" / "a.parquet")
    assert names(dataset) == ["_day=2/a.parquet", "day=1/a.parquet"]


def test_few_files_are_opened(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(_: fs.FileSystem, entry: fs.FileInfo) -> bytes:
        opened.append(entry.base_name)
        return b""

    monkeypatch.setattr(data.discovery.listing, "_first_bytes", counted)
    for number in range(100):
        (dataset / f"{number:03}.json").write_text("a longer text")
    (dataset / "short").write_text("text")
    assert len(unread(dataset)) == 101
    assert sorted(opened) == [f"{number:03}.json" for number in range(LOOKS_PER_SUFFIX)]
    for number in range(100):
        (dataset / f"part.{number}").write_text("a longer text")
    opened.clear()
    assert len(unread(dataset)) == 201
    assert len(opened) == LOOKS


def test_a_file_that_cannot_be_opened_is_only_told(dataset: Path) -> None:
    (dataset / "secret").write_text("a longer text")
    local = fs.LocalFileSystem()
    assert data.discovery.listing._first_bytes(local, local.get_file_info(f"{dataset}/nowhere")) == b""
    assert unread(dataset) == ("secret",)


def test_other_filesystems_are_listed_alike(tmp_path: Path) -> None:
    for name in ("day=1/a.parquet", "_day=2/a.parquet", *HIDDEN):
        write(tmp_path / name)
    (tmp_path / "README.md").write_text("a text")
    remote = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    found = list_dataset(remote, "", "remote://")
    assert [entry.path for entry in found.files] == ["_day=2/a.parquet", "day=1/a.parquet"]
    assert found.unread == ("README.md",)
    write(tmp_path / "b.parq")
    with pytest.raises(DataError, match=r"^dataset remote://: 1 file: b\.parq looks like data, "):
        list_dataset(remote, "", "remote://")


# ---- links


def test_links_are_followed(dataset: Path, tmp_path: Path) -> None:
    """A folder of links, as of a cache of downloads."""
    outside = write(tmp_path / "elsewhere" / "blob")
    (dataset / "b.parquet").symlink_to(outside)
    (dataset / "day=2").symlink_to(write(tmp_path / "other" / "a.parquet").parent)
    manifest = read_manifest(str(dataset), cache=None)
    assert manifest.files == ("b.parquet", "day=1/a.parquet", "day=2/a.parquet")
    assert manifest.num_rows == 9
    (tmp_path / "link").symlink_to(dataset)
    assert read_manifest(str(tmp_path / "link"), cache=None).fingerprint == manifest.fingerprint


Change = Callable[[Path], object]


def loop_to_root(dataset: Path) -> None:
    (dataset / "day=1" / "loop").symlink_to("..")


def loop_to_itself(dataset: Path) -> None:
    (dataset / "day=1" / "loop").symlink_to(".")


def link_above(dataset: Path) -> None:
    (dataset / "above").symlink_to("../..")


def folder_twice(dataset: Path) -> None:
    (dataset / "day=2").symlink_to("day=1")


def file_twice(dataset: Path) -> None:
    (dataset / "b.parquet").symlink_to("day=1/a.parquet")


def hard_link(dataset: Path) -> None:
    (dataset / "b.parquet").hardlink_to(dataset / "day=1" / "a.parquet")


TWICE: dict[Change, str] = {
    loop_to_root: "day=1/loop leads back to a folder that it lies in, so that rows would count twice; remove ",
    loop_to_itself: "day=1 and day=1/loop are the same, so that rows would count twice; remove day=1/loop",
    link_above: "above leads back to a folder that it lies in, so that rows would count twice; remove above",
    folder_twice: "day=1 and day=2 are the same, so that rows would count twice; remove ",
    file_twice: "b.parquet and day=1/a.parquet are the same, so that rows would count twice; remove ",
    hard_link: "b.parquet and day=1/a.parquet are the same, so that rows would count twice; remove ",
}


@pytest.mark.parametrize(("change", "message"), TWICE.items())
def test_rows_do_not_count_twice(dataset: Path, change: Change, message: str) -> None:
    change(dataset)
    with pytest.raises(DataError) as raised:
        read_manifest(str(dataset), cache=None)
    assert str(raised.value).startswith(f"dataset {dataset}: {message}")


@pytest.mark.parametrize("target", ["nowhere", "b.parquet"])
def test_a_link_that_leads_nowhere_is_named(dataset: Path, target: str) -> None:
    (dataset / "b.parquet").symlink_to(target)
    expect_error(dataset, "b.parquet is a broken link; fix or remove it")


def test_another_link_that_leads_nowhere_is_told(dataset: Path) -> None:
    (dataset / "notes").symlink_to("nowhere")
    assert unread(dataset) == ("notes",)


def test_a_pipe_is_no_data(dataset: Path) -> None:
    os.mkfifo(dataset / "b.parquet")
    expect_error(dataset, "b.parquet is no regular file; remove it")
    (dataset / "b.parquet").rename(dataset / "pipe")
    assert unread(dataset) == ("pipe",)


def test_names_that_are_no_text(dataset: Path) -> None:
    path = os.fsencode(dataset / "day=1") + b"/b\xff.parquet"
    os.rename(dataset / "day=1" / "a.parquet", path)
    expect_error(dataset, r"the name of 'day=1/b\udcff.parquet' is not UTF-8; rename it")
    os.rename(path, dataset / "ä.parquet")
    (dataset / "x\n.txt").touch()
    note = read_manifest(str(dataset), cache=None).unread_note
    assert note == rf"dataset {dataset}: only *.parquet is read, not 1 other file: 'x\n.txt'"
