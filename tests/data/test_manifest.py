import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.discovery.dataset
from data.discovery.dataset import read_manifest
from data.discovery.schema import Column
from data.errors import DataError
from data.manifest import Manifest, manifest_change, read_schema
from data.storage.filesystem import open_uri
from data.storage.manifest_file import load_manifest, save_manifest
from data.storage.writer import write_schema

FILES = {"b.parquet": [4], "day=0/a.parquet": [2, 3], "day=0/b.parquet": [1], "day=1/x/a.parquet": [5, 0, 6]}
SCHEMA = pa.schema([("user", pa.int64()), ("tags", pa.list_(pa.int32())), ("click", pa.int8())])


def write_file(path: Path, groups: list[int], schema: pa.Schema = SCHEMA, first: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        for rows in groups:
            values = {"user": range(first, first + rows), "tags": [[1, 2]] * rows, "click": [1] * rows}
            columns = [pa.array(values.get(field.name, [None] * rows), field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=max(rows, 1))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "dataset"
    for name, groups in FILES.items():
        write_file(root / name, groups)
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "manifests"


def read(root: Path) -> Manifest:
    return read_manifest(str(root), cache=None)


def contents(manifest: Manifest) -> tuple[object, ...]:
    arrays = [array.tolist() for array in (manifest.file, manifest.group, manifest.rows, manifest.bytes)]
    return manifest.files, manifest.digests, manifest.left_out, manifest.schema, manifest.fingerprint, arrays


def test_row_groups_are_listed_in_path_order(dataset: Path) -> None:
    manifest = read(dataset)
    assert manifest.files == tuple(FILES)
    assert manifest.file.tolist() == [0, 1, 1, 2, 3, 3, 3]
    assert manifest.group.tolist() == [0, 0, 1, 0, 0, 1, 2]
    assert manifest.rows.tolist() == [4, 2, 3, 1, 5, 0, 6]
    assert manifest.num_rows == 21
    sizes = [pq.read_metadata(dataset / "day=0/a.parquet").row_group(index).total_byte_size for index in range(2)]
    assert manifest.bytes.tolist()[1:3] == sizes
    assert manifest.schema.names == SCHEMA.names
    assert manifest.schema.field("tags").type == pa.list_(pa.int32())


def test_rows_are_numbered_in_path_order(dataset: Path) -> None:
    assert read(dataset).first_row.tolist() == [0, 4, 6, 9, 10, 15, 15]


def test_a_window_is_a_directory_or_a_file_at_the_root(dataset: Path) -> None:
    assert read(dataset).window.tolist() == [0, 1, 1, 1, 2, 2, 2]


def test_a_row_group_is_described_by_its_file(dataset: Path) -> None:
    manifest = read(dataset)
    assert manifest.path(6) == f"{dataset}/day=1/x/a.parquet"
    assert manifest.describe(6) == f"row group 2 of {dataset}/day=1/x/a.parquet"


def test_other_files_and_hidden_ones_are_no_data(dataset: Path) -> None:
    expected = contents(read(dataset))
    for name in ("_SUCCESS", "schema.json", "notes.txt", "_tmp/a.parquet", ".git/a.parquet", "day=0/.a.parquet"):
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).write_text("something else")
    assert contents(read(dataset)) == expected


def test_a_directory_may_end_in_parquet(tmp_path: Path) -> None:
    write_file(tmp_path / "log.parquet" / "part-0.parquet", [3])
    assert read(tmp_path).files == ("log.parquet/part-0.parquet",)
    assert read(tmp_path / "log.parquet").files == ("part-0.parquet",)


def test_hidden_directories_above_the_dataset_do_not_matter(tmp_path: Path) -> None:
    write_file(tmp_path / ".cache" / "_data" / "a.parquet", [3])
    assert read(tmp_path / ".cache" / "_data").num_rows == 3


@pytest.mark.parametrize("name", ["one.parquet", "_one", "one.bin"])
def test_a_single_file_is_a_dataset(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / name, [2, 3])
    manifest = read(tmp_path / name)
    assert (manifest.num_rows, manifest.window.tolist()) == (5, [0, 0])
    assert manifest.path(1) == f"{tmp_path}/{name}"
    assert manifest.describe(1) == f"row group 1 of {tmp_path}/{name}"
    assert read_schema(manifest) == {}


def test_paths_and_uris_name_the_same_dataset(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = contents(read(dataset))
    monkeypatch.chdir(dataset / "day=0")
    for uri in (f"file://{dataset}", f"file://{dataset}/", f"{dataset}/", "..", "../../dataset"):
        manifest = read_manifest(uri, cache=None)
        assert contents(manifest) == expected
        with manifest.filesystem.open_input_file(manifest.path(0)) as handle:
            assert pq.ParquetFile(handle).metadata.num_rows == 4


# ---- fingerprint


def test_a_copy_has_the_same_fingerprint(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "copy")
    assert read(tmp_path / "copy").fingerprint == read(dataset).fingerprint


def test_every_change_changes_the_fingerprint(dataset: Path) -> None:
    fingerprints = {read(dataset).fingerprint}

    def changed() -> None:
        fingerprint = read(dataset).fingerprint
        assert fingerprint not in fingerprints
        fingerprints.add(fingerprint)

    size = (dataset / "b.parquet").stat().st_size
    write_file(dataset / "b.parquet", [4], first=100)
    assert (dataset / "b.parquet").stat().st_size == size
    changed()
    write_file(dataset / "b.parquet", [1, 3], first=100)
    changed()
    (dataset / "b.parquet").rename(dataset / "c.parquet")
    changed()
    (dataset / "c.parquet").unlink()
    changed()


# ---- cache


@pytest.fixture
def footers_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths whose footers are read."""
    paths: list[str] = []
    original = data.discovery.dataset.read_footer

    def counted(filesystem: pa.fs.FileSystem, info: pa.fs.FileInfo) -> object:
        paths.append(info.path)
        return original(filesystem, info)

    monkeypatch.setattr(data.discovery.dataset, "read_footer", counted)
    return paths


def test_a_cached_manifest_is_used(dataset: Path, cache: Path, footers_read: list[str]) -> None:
    first = read_manifest(str(dataset), cache)
    assert len(footers_read) == 4
    again = read_manifest(str(dataset), cache)
    assert len(footers_read) == 4
    assert contents(again) == contents(first) == contents(read(dataset))
    assert again.window.tolist() == first.window.tolist()
    assert [path.suffix for path in cache.iterdir()] == [".parquet"]


def test_a_change_of_any_file_makes_the_cache_invalid(dataset: Path, cache: Path, footers_read: list[str]) -> None:
    path = dataset / "b.parquet"
    first = read_manifest(str(dataset), cache)
    before = path.stat()
    write_file(path, [4], first=100)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns + 1))  # the clock of a file system may stand still
    assert path.stat().st_size == before.st_size
    second = read_manifest(str(dataset), cache)
    assert second.fingerprint != first.fingerprint
    write_file(dataset / "new.parquet", [1])
    assert read_manifest(str(dataset), cache).num_rows == 22
    (dataset / "new.parquet").unlink()
    assert contents(read_manifest(str(dataset), cache)) == contents(second)
    assert len(footers_read) == 4 + 4 + 5 + 4


def test_every_dataset_has_its_own_cache(dataset: Path, tmp_path: Path, cache: Path) -> None:
    write_file(tmp_path / "other" / "a.parquet", [3])
    for _ in range(2):
        assert read_manifest(str(dataset), cache).num_rows == 21
        assert read_manifest(str(tmp_path / "other"), cache).num_rows == 3


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty", "other parquet", "directory"])
def test_a_damaged_cache_counts_as_none(dataset: Path, cache: Path, damage: str) -> None:
    expected = contents(read_manifest(str(dataset), cache))
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.unlink()
    if damage == "other parquet":
        write_file(path, [1])
    elif damage == "directory":
        path.mkdir()
    else:
        path.write_bytes({"garbage": b"PAR1" * 20, "truncated": whole[: len(whole) // 2], "empty": b""}[damage])
    for _ in range(2):
        assert contents(read_manifest(str(dataset), cache)) == expected
    assert [entry.name for entry in cache.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_written_is_left_alone(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("theirs")
    for cache in (tmp_path / "file", tmp_path / "file" / "manifests"):
        assert read_manifest(str(dataset), cache).num_rows == 21
    assert (tmp_path / "file").read_text() == "theirs"


def test_a_dataset_that_cannot_be_used_is_not_cached(tmp_path: Path, cache: Path) -> None:
    write_file(tmp_path / "dataset" / "a.parquet", [0])
    with pytest.raises(DataError, match="hold no rows"):
        read_manifest(str(tmp_path / "dataset"), cache)
    assert not cache.exists()


# ---- files left out


def skip(root: Path, cache: Path | None = None) -> Manifest:
    return read_manifest(str(root), cache, on_bad_file="skip")


BAD_FILES = ("day=0/a.parquet", "day=1/x/a.parquet")


def damage(dataset: Path) -> None:
    for name in BAD_FILES:
        (dataset / name).write_bytes(b"PAR1" * 20)


def test_unreadable_files_are_left_out_where_asked_for(dataset: Path) -> None:
    """What is left is the dataset without them."""
    damage(dataset)
    manifest = skip(dataset)
    assert [name for name, _ in manifest.left_out] == list(BAD_FILES)
    for _, reason in manifest.left_out:
        assert reason.startswith("not a readable Parquet file (")
        assert "\n" not in reason
    for name in BAD_FILES:
        (dataset / name).unlink()
    without = read(dataset)
    assert without.left_out == ()
    assert contents(replace(manifest, left_out=())) == contents(without)


def test_nothing_is_left_out_of_a_whole_dataset(dataset: Path) -> None:
    assert contents(skip(dataset)) == contents(read(dataset))


def test_a_dataset_of_bad_files_alone_is_an_error(dataset: Path) -> None:
    for name in FILES:
        (dataset / name).write_bytes(b"")
    expected = (
        rf"^dataset {dataset}: none of its 4 Parquet files can be read; {dataset}/b\.parquet: not a readable .*; "
    )
    with pytest.raises(DataError, match=expected):
        skip(dataset)
    expect_error(dataset, rf"^{dataset}/b\.parquet: not a readable Parquet file ")


def test_a_footer_that_contradicts_itself_is_unreadable(dataset: Path) -> None:
    """The rows of the file and those of each row group stand in it one by one."""
    path = dataset / "day=0/a.parquet"
    write_file(path, [44, 33])
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    seventy_seven = whole.index(b"\x16\x9a\x01", footer)  # an int64 in Thrift's compact form
    path.write_bytes(whole[:seventy_seven] + b"\x16\x98\x01" + whole[seventy_seven + 3 :])
    expect_error(
        dataset, rf"^{path}: not a readable Parquet file \(its row groups hold 77 rows, its footer says 76\); "
    )
    assert skip(dataset).left_out[0][0] == "day=0/a.parquet"


def test_files_left_out_are_cached(dataset: Path, cache: Path, footers_read: list[str]) -> None:
    damage(dataset)
    first = skip(dataset, cache)
    assert len(footers_read) == 4
    assert contents(skip(dataset, cache)) == contents(first)
    assert len(footers_read) == 4


def test_a_cache_without_them_does_not_serve_who_wants_every_file(dataset: Path, cache: Path) -> None:
    damage(dataset)
    skip(dataset, cache)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_manifest(str(dataset), cache)
    write_file(dataset / BAD_FILES[0], [2, 3])
    assert [name for name, _ in skip(dataset, cache).left_out] == [BAD_FILES[1]]


def test_the_cache_of_a_whole_dataset_serves_both(dataset: Path, cache: Path, footers_read: list[str]) -> None:
    first = skip(dataset, cache)
    assert contents(read_manifest(str(dataset), cache)) == contents(first)
    assert len(footers_read) == 4


# ---- kept beside a run


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return tmp_path / "run=1" / "manifest.parquet"


def save(manifest: Manifest, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    save_manifest(manifest, path)


def test_a_saved_manifest_is_usable_without_the_dataset(dataset: Path, saved: Path) -> None:
    damage(dataset)
    manifest = skip(dataset)
    save(manifest, saved)
    shutil.rmtree(dataset)
    loaded = load_manifest(saved)
    assert contents(loaded) == contents(manifest)
    assert loaded.left_out
    assert loaded.uri == str(dataset)
    assert loaded.describe(1) == f"row group 0 of {dataset}/day=0/b.parquet"
    assert loaded.window.tolist() == [0, 1]
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_a_loaded_manifest_finds_its_data(dataset: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any working directory."""
    monkeypatch.chdir(dataset.parent)
    save(read_manifest("dataset", cache=None), saved)
    monkeypatch.chdir("/")
    manifest = load_manifest(saved)
    with manifest.filesystem.open_input_file(manifest.path(0)) as handle:
        assert pq.ParquetFile(handle).metadata.num_rows == 4


def test_saving_replaces_what_was_there(dataset: Path, saved: Path) -> None:
    save(read(dataset), saved)
    (dataset / "b.parquet").unlink()
    save(read(dataset), saved)
    assert load_manifest(saved).num_rows == 17


def test_a_manifest_that_cannot_be_saved_is_named(dataset: Path, saved: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        save_manifest(read(dataset), saved)
    assert caught.value.filename == str(saved)


def test_a_missing_or_foreign_manifest_is_named(dataset: Path, saved: Path) -> None:
    saved.parent.mkdir()
    for path in (saved, dataset / "b.parquet", dataset):
        with pytest.raises(DataError, match=rf"^{path}: not a saved manifest \(.*\); restore it from a copy$"):
            load_manifest(path)


def test_no_wrong_byte_in_a_saved_manifest_goes_unnoticed(dataset: Path, saved: Path) -> None:
    """It is an error, or one that does not matter."""
    manifest = read(dataset)
    save(manifest, saved)
    whole = saved.read_bytes()
    found = 0
    for place in range(0, len(whole), 7):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        try:
            loaded = load_manifest(saved)
        except DataError:
            found += 1
        else:
            assert contents(loaded) == contents(manifest)
    assert found > len(whole) / 7 / 2


def halve(table: pa.Table) -> pa.Table:
    return table.slice(0, len(table) // 2)


def other_rows(table: pa.Table) -> pa.Table:
    return table.set_column(2, "rows", table["bytes"])


def other_listing(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({**table.schema.metadata, b"listing": b"other"})


def other_uri(table: pa.Table) -> pa.Table:
    texts = table.schema.metadata[b"texts"].replace(b"dataset", b"elsewhere")
    return table.replace_schema_metadata({**table.schema.metadata, b"texts": texts})


@pytest.mark.parametrize("change", [halve, other_rows, other_listing, other_uri])
def test_a_manifest_whose_parts_do_not_belong_together_is_an_error(
    dataset: Path, saved: Path, cache: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    """A well-formed file with the digest of another; read anew where it is only a cache."""
    save(read(dataset), saved)
    expected = contents(read_manifest(str(dataset), cache))
    for path in (saved, *cache.iterdir()):
        pq.write_table(change(pq.ParquetFile(path).read()), path)
    with pytest.raises(DataError, match="not a saved manifest"):
        load_manifest(saved)
    assert contents(read_manifest(str(dataset), cache)) == expected


def test_a_manifest_of_the_last_format_is_read(dataset: Path, saved: Path) -> None:
    """Runs hold them."""
    save(read(dataset), saved)
    table = pq.ParquetFile(saved).read()
    parts = [2, table.schema.metadata[b"texts"], table.schema.metadata[b"schema"]]
    digest = hashlib.sha256(b"".join(repr(part).encode() + b"\n" for part in parts)).hexdigest()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"digest": digest}), saved)
    assert contents(load_manifest(saved)) == contents(read(dataset))


def test_a_truncated_manifest_is_an_error(dataset: Path, saved: Path) -> None:
    save(read(dataset), saved)
    whole = saved.read_bytes()
    for cut in range(0, len(whole), 101):
        saved.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="not a saved manifest"):
            load_manifest(saved)


# ---- what has changed


def new_file(dataset: Path) -> None:
    write_file(dataset / "day=0/aa.parquet", [1])


def gone_file(dataset: Path) -> None:
    (dataset / "day=1/x/a.parquet").unlink()


def more_rows(dataset: Path) -> None:
    write_file(dataset / "day=0/a.parquet", [1000, 234])


def other_groups(dataset: Path) -> None:
    write_file(dataset / "day=0/a.parquet", [5])


def other_sizes(dataset: Path) -> None:
    write_file(dataset / "day=0/a.parquet", [3, 2])


def other_values(dataset: Path) -> None:
    write_file(dataset / "day=0/a.parquet", [2, 3], first=100)


def renamed(dataset: Path) -> None:
    (dataset / "b.parquet").rename(dataset / "c.parquet")


def several(dataset: Path) -> None:
    new_file(dataset)
    gone_file(dataset)


CHANGES = {
    new_file: "day=0/aa.parquet is new",
    gone_file: "day=1/x/a.parquet is gone",
    more_rows: "day=0/a.parquet has 1,234 rows in 2 row groups, had 5 in 2",
    other_groups: "day=0/a.parquet has 5 rows in 1 row group, had 5 in 2",
    other_sizes: "the contents of day=0/a.parquet changed (same number of rows and row groups)",
    other_values: "the contents of day=0/a.parquet changed (same number of rows and row groups)",
    renamed: "b.parquet is gone",
    several: "day=0/aa.parquet is new",
}


@pytest.mark.parametrize(("change", "phrase"), CHANGES.items())
def test_a_change_is_named(dataset: Path, saved: Path, change: Callable[[Path], None], phrase: str) -> None:
    save(read(dataset), saved)
    before = load_manifest(saved)
    assert manifest_change(before, read(dataset)) is None
    change(dataset)
    assert manifest_change(before, read(dataset)) == phrase


def test_a_copy_elsewhere_is_no_change(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "copy")
    assert manifest_change(read(dataset), read(tmp_path / "copy")) is None


def test_a_single_file_that_changes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    write_file(path, [2])
    before = read(path)
    write_file(path, [3])
    assert manifest_change(before, read(path)) == "one.parquet has 3 rows in 1 row group, had 2 in 1"


# ---- what goes wrong


def expect_error(uri: str | Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        read_manifest(str(uri), cache=None)
    assert "\n" not in str(raised.value)


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    for uri in (f"{tmp_path}/nowhere", f"file://{tmp_path}/nowhere"):
        expect_error(uri, rf"^dataset {uri}: no such file or folder$")


def test_a_folder_without_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b")
    expect_error(tmp_path, rf"^dataset {tmp_path}: no \*\.parquet file in it, but 1 other file: data\.csv; name ")


def test_a_dataset_without_rows_is_named(tmp_path: Path) -> None:
    write_file(tmp_path / "a.parquet", [])
    write_file(tmp_path / "b.parquet", [0])
    expect_error(tmp_path, rf"^dataset {tmp_path}: its 2 Parquet files hold no rows; ")


def test_a_uri_that_nothing_opens_is_named() -> None:
    for uri in ("gopher://host/data", "://"):
        with pytest.raises(DataError, match=rf"^dataset {uri}: .*; give a local path or a URI that pyarrow.fs opens$"):
            open_uri(uri)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty"])
def test_an_unreadable_file_is_named(dataset: Path, damage: str) -> None:
    path = dataset / "day=0/b.parquet"
    whole = path.read_bytes()
    path.write_bytes({"garbage": b"PAR1" * 20, "truncated": whole[:-20], "empty": b""}[damage])
    expect_error(dataset, rf"^{path}: not a readable Parquet file \(.+\); write it anew or remove it$")


def test_schemas_that_differ_are_kept_with_the_first_file_of_each(dataset: Path, cache: Path) -> None:
    """Whether it matters depends on what is read of them (`data.columns.kinds`)."""
    other = SCHEMA.set(1, pa.field("tags", pa.large_list(pa.int64()))).append(pa.field("like", pa.int8()))
    write_file(dataset / "day=0/c.parquet", [1], other)
    write_file(dataset / "day=0/d.parquet", [1], other)
    write_file(dataset / "day=0/e.parquet", [1], SCHEMA.remove(2))
    for manifest in (read_manifest(str(dataset), cache), read_manifest(str(dataset), cache)):
        assert [path.removeprefix(f"{dataset}/") for path, _ in manifest.schemas] == [
            "b.parquet",
            "day=0/c.parquet",
            "day=0/e.parquet",
        ]
        assert [schema.names for _, schema in manifest.schemas] == [
            ["user", "tags", "click"],
            ["user", "tags", "click", "like"],
            ["user", "tags"],
        ]


def test_metadata_does_not_make_schemas_differ(dataset: Path) -> None:
    """pandas leaves its version and the index there."""
    schema = SCHEMA.with_metadata({"pandas": "{}"})
    write_file(dataset / "day=0/c.parquet", [1], schema.set(0, schema.field(0).with_metadata({"a": "b"})))
    assert len(read(dataset).schemas) == 1


def test_the_order_of_columns_and_not_null_are_free(dataset: Path) -> None:
    """They are read by name."""
    names = ["click", "user", "tags"]
    schema = pa.schema([pa.field(name, SCHEMA.field(name).type, nullable=name == "tags") for name in names])
    write_file(dataset / "day=0/c.parquet", [1], schema)
    assert len(read(dataset).schemas) == 1
    assert read(dataset).schema.names == SCHEMA.names


# ---- schema.json

COLUMN = Column("user", "int64", "feature", "The user.", cardinality=7)


def test_the_schema_lies_in_the_folder_or_above_it(dataset: Path, tmp_path: Path) -> None:
    assert read_schema(read(dataset)) == {}
    write_schema(tmp_path, [COLUMN])
    assert read_schema(read(dataset)) == {"user": COLUMN}
    write_schema(dataset, [])
    assert read_schema(read(dataset)) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        pytest.param("[" * 100_000, id="deep"),
        '{"columns": [{"name": "a"}]}',
        '{"columns": 3}',
        "\udcff",
    ],
)
def test_a_damaged_schema_is_named(dataset: Path, text: str) -> None:
    (dataset / "schema.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=rf"^{dataset}/schema.json: not a dataset schema \(.*\); fix or remove it$"):
        read_schema(read(dataset))
