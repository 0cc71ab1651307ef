"""What a dataset is made of: its files, their row groups, and a fingerprint that notices a change.

Reading 100,000 footers takes minutes on an object store, so a manifest is cached in the user's cache folder, under the
listing of the dataset (paths, sizes, times of modification). A run keeps its own copy, which tells later what was
trained, and what has changed since. Both are Parquet with metadata; nothing is unpickled.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from data.discovery.footer import Footer, UnreadableError, one_line, read_footer, same_columns
from data.discovery.listing import SHOWN, below, first_names, list_dataset
from data.discovery.schema import SCHEMA_FILE, Column, parse_schema
from data.discovery.windows import number_windows, window_name
from data.errors import DataError
from data.hashing import Int64
from data.storage.files import replaced
from data.storage.parsing import parse_json
from data.storage.paths import full_path

FOOTER_THREADS = 32
"""Footers are read at once; an object store answers each in tens of milliseconds."""
CACHE = Path("~/.cache/adatt/manifests")
FORMAT = 3
"""Of the files that hold a manifest. The digest of format 2 did not cover the arrays; runs hold such files."""
_ARRAYS = ("file", "group", "rows", "bytes")
_TEXTS = ("uri", "root", "fingerprint", "files", "digests", "left_out", "num_unread", "unread")
_NOT_OURS = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)
"""What reading such a file raises where it is damaged or something else."""
OnBadFile = Literal["fail", "skip"]
"""fail: a file that cannot be read is an error. skip: it is left out, and what was left out is recorded."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """A dataset's row groups in path order; one entry per row group in each array."""

    uri: str
    files: tuple[str, ...]
    """Paths below the dataset's root, sorted."""
    file: Int64
    """Index into `files`."""
    group: Int64
    """Index of the row group inside its file."""
    rows: Int64
    bytes: Int64
    """Uncompressed size."""
    schema: pa.Schema
    """Of the first file with rows."""
    fingerprint: str
    """Hash of all paths, sizes and footers: the same data copied elsewhere has the same fingerprint."""
    digests: tuple[str, ...] = field(repr=False)
    """Hash of each file's size and footer."""
    left_out: tuple[tuple[str, str], ...]
    """Files that could not be read, with the reason; they are in none of the above."""
    root: str = field(repr=False)
    """Path of the dataset on its filesystem."""
    num_unread: int = 0
    """Other files that lie in the dataset's folder, which are not read."""
    unread: tuple[str, ...] = ()
    """The first of them."""
    other_schemas: tuple[tuple[str, pa.Schema], ...] = field(default=(), repr=False)
    """Those that differ from the first, each with the first of `files` that has it."""

    @cached_property
    def filesystem(self) -> fs.FileSystem:
        """Where the files are; opened when first asked for, so a manifest is usable where its data is not."""
        return open_uri(self.uri)[0]

    @property
    def num_rows(self) -> int:
        """Rows of the whole dataset."""
        return int(self.rows.sum())

    @cached_property
    def first_row(self) -> Int64:
        """Number of each row group's first row, where the rows of all groups are numbered one after the other."""
        return np.cumsum(self.rows) - self.rows

    @property
    def window_names(self) -> list[str]:
        """The time window of each file: its directory, or the file itself where that lies at the root."""
        return [window_name(name) for name in self.files]

    @cached_property
    def window(self) -> Int64:
        """Number of each row group's time window, in the order of time."""
        return number_windows(self.window_names)[self.file]

    @property
    def unread_note(self) -> str | None:
        """What lies in the dataset's folder and is not read, in a line; None: nothing."""
        found = first_names(self.unread, self.num_unread) if self.num_unread else None
        return found and f"dataset {self.uri}: only *.parquet is read, not {found}"

    @property
    def schemas(self) -> list[tuple[str, pa.Schema]]:
        """Every way in which files store columns, with the path of the first that does it so."""
        first = self.path(int(np.flatnonzero(self.rows)[0]))
        return [(first, self.schema), *((self._path_of(name), schema) for name, schema in self.other_schemas)]

    def path(self, group: int) -> str:
        """Path of a row group's file, for the filesystem."""
        return self._path_of(self.files[self.file[group]])

    def _path_of(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def describe(self, group: int) -> str:
        """`row group 3 of train/day_07.parquet`, for messages."""
        return f"row group {self.group[group]} of {self.path(group)}"


def read_manifest(uri: str, cache: Path | None = CACHE, *, on_bad_file: OnBadFile = "fail") -> Manifest:
    """Manifest of the dataset at `uri` (a path or any URI that pyarrow.fs opens); DataError where there is none.

    A file whose footer cannot be read is an error, or with `on_bad_file = "skip"` in `left_out`; never all of them.
    """
    filesystem, root = open_uri(uri)
    listed = list_dataset(filesystem, root, uri)
    infos = listed.files
    names = [below(root, info) for info in infos]
    listing = _digest([FORMAT, *((name, info.size, info.mtime_ns) for name, info in zip(names, infos, strict=True))])
    cached = _cache_file(cache, f"{_digest([(uri, root)])}.parquet")
    known = _load_cached(cached, listing, on_bad_file)
    manifest = known or _read_footers(uri, root, filesystem, infos, on_bad_file)
    if manifest.num_rows == 0:
        raise DataError(
            f"dataset {uri}: its {len(manifest.files)} Parquet files hold no rows; write some or name another dataset"
        )
    if cached and not known:
        with suppress(OSError):  # best effort: a read-only home only costs the next start some time
            cached.parent.mkdir(parents=True, exist_ok=True)
            _write(manifest, cached, listing)
    return replace(manifest, num_unread=len(listed.unread), unread=listed.unread[:SHOWN])


def listing_digest(uri: str) -> str:
    """Of the names, sizes and times of modification of the dataset's files; DataError where there are none."""
    filesystem, root = open_uri(uri)
    infos = list_dataset(filesystem, root, uri).files
    return _digest((below(root, info), info.size, info.mtime_ns) for info in infos)


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Writes the manifest to a local file, which appears complete or not at all; OSError where it cannot."""
    _write(manifest, path)


def load_manifest(path: Path) -> Manifest:
    """What `save_manifest` wrote, without a look at the dataset; DataError where it is missing or damaged."""
    try:
        return _from_table(_read_table(path))
    except _NOT_OURS as error:
        raise DataError(f"{path}: not a saved manifest ({one_line(error)}); restore it from a copy") from error


def manifest_change(before: Manifest, now: Manifest) -> str | None:
    """What makes the fingerprints differ, naming the first such file by path; None where they are equal."""
    if before.fingerprint == now.fingerprint:
        return None
    old, new = _states(before), _states(now)
    name = next(name for name in sorted({*old, *new}) if old.get(name) != new.get(name))
    shown = name or PurePosixPath(now.root).name
    if name not in old:
        return f"{shown} is new"
    if name not in new:
        return f"{shown} is gone"
    (rows, groups, _), (old_rows, old_groups, _) = new[name], old[name]
    if (rows, groups) != (old_rows, old_groups):
        plural = "s" * (groups != 1)
        return f"{shown} has {rows:,} rows in {groups:,} row group{plural}, had {old_rows:,} in {old_groups:,}"
    return f"the contents of {shown} changed (same number of rows and row groups)"


def as_before(before: Manifest, now: Manifest) -> Manifest:
    """`before` where `now` lies, if they differ in files only that one of them could not read; else `now`."""
    unreadable = {name for name, _ in (*before.left_out, *now.left_out)}
    old, new = _states(before), _states(now)
    alike = all(old.get(name) == new.get(name) for name in {*old, *new} - unreadable)
    return replace(before, uri=now.uri, root=now.root) if alike else now


def read_schema(manifest: Manifest) -> dict[str, Column]:
    """Columns of the `schema.json` in the dataset's folder or the one above it; empty where there is none."""
    for folder in (manifest.root, str(PurePosixPath(manifest.root).parent)):
        path = f"{folder}/{SCHEMA_FILE}"
        if manifest.filesystem.get_file_info(path).type != fs.FileType.File:
            continue
        try:
            return parse_schema(manifest.filesystem.open_input_file(path).read().decode())
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DataError(f"{path}: not a dataset schema ({error!r}); mend or remove it") from error
    return {}


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem behind a URI or local path, and the path on it."""
    if "://" not in uri:
        try:
            return fs.LocalFileSystem(), full_path(uri).absolute().as_posix()
        except ValueError as error:
            raise DataError(f"dataset {error}") from error
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError(
            f"dataset {uri}: {one_line(error)}; give a local path or a URI that pyarrow.fs opens"
        ) from error
    return filesystem, root.rstrip("/")


def _read_footers(
    uri: str, root: str, filesystem: fs.FileSystem, infos: tuple[fs.FileInfo, ...], on_bad_file: OnBadFile
) -> Manifest:
    def read(info: fs.FileInfo) -> Footer | UnreadableError:
        try:
            return read_footer(filesystem, info)
        except UnreadableError as error:
            if on_bad_file == "fail":
                raise
            return error

    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        found = list(zip(infos, pool.map(read, infos), strict=True))
    good = [(info, footer) for info, footer in found if isinstance(footer, Footer)]
    bad = [(info, error) for info, error in found if isinstance(error, UnreadableError)]
    if not good:
        raise DataError(f"dataset {uri}: none of its {len(bad)} Parquet files can be read; {bad[0][1]}")
    left_out = tuple((below(root, info), error.reason) for info, error in bad)
    return _manifest_of(uri, root, good, left_out)


def _manifest_of(
    uri: str, root: str, footers: list[tuple[fs.FileInfo, Footer]], left_out: tuple[tuple[str, str], ...]
) -> Manifest:
    parts = [(below(root, info), info.size, footer.digest) for info, footer in footers]
    groups = [footer.rows for _, footer in footers]
    (_, schema), *other_schemas = _distinct_schemas(root, footers)
    return Manifest(
        uri=uri,
        files=tuple(name for name, _, _ in parts),
        file=np.repeat(np.arange(len(groups)), [len(rows) for rows in groups]),
        group=np.array([index for rows in groups for index in range(len(rows))], np.int64),
        rows=np.array([count for rows in groups for count in rows], np.int64),
        bytes=np.array([size for _, footer in footers for size in footer.bytes], np.int64),
        schema=schema,
        fingerprint=_digest(parts),
        digests=tuple(_digest([part[1:]]) for part in parts),
        left_out=left_out,
        root=root,
        other_schemas=tuple(other_schemas),
    )


def _distinct_schemas(root: str, footers: list[tuple[fs.FileInfo, Footer]]) -> list[tuple[str, pa.Schema]]:
    """Each schema once, with the first file that has it; how a file without rows would store some does not matter."""
    distinct: list[tuple[str, pa.Schema]] = []
    for info, footer in [entry for entry in footers if sum(entry[1].rows)] or footers[:1]:
        if not any(same_columns(footer.schema, known) for _, known in distinct):
            distinct.append((below(root, info), footer.schema))
    return distinct


def _digest(parts: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode() + b"\n")
    return digest.hexdigest()


def _cache_file(cache: Path | None, name: str) -> Path | None:
    """None where no cache is wanted, or the user has no home for one."""
    try:
        return cache.expanduser() / name if cache else None
    except RuntimeError:
        return None


def _load_cached(path: Path | None, listing: str, on_bad_file: OnBadFile) -> Manifest | None:
    """The cached manifest, or None where there is none for exactly this listing; a damaged cache counts as none.

    One that leaves out files serves only those who want them left out.
    """
    if path is None or not path.is_file():
        return None
    try:
        table = _read_table(path)
        if table.schema.metadata[b"listing"] != listing.encode():
            return None
        manifest = _from_table(table)
    except _NOT_OURS:
        return None
    return None if manifest.left_out and on_bad_file == "fail" else manifest


def _states(manifest: Manifest) -> dict[str, tuple[int, int, str]]:
    """Rows, row groups and digest of each file."""
    num_files = len(manifest.files)
    groups = np.bincount(manifest.file, minlength=num_files)
    rows = np.zeros(num_files, np.int64)
    np.add.at(rows, manifest.file, manifest.rows)
    states = zip(rows.tolist(), groups.tolist(), manifest.digests, strict=True)
    return dict(zip(manifest.files, states, strict=True))


def _write(manifest: Manifest, path: Path, listing: str = "") -> None:
    """OSError where it cannot be written; nothing is left of it then."""
    others = [(name, schema.serialize().to_pybytes().hex()) for name, schema in manifest.other_schemas]
    texts = json.dumps({name: getattr(manifest, name) for name in _TEXTS} | {"other_schemas": others}).encode()
    schema = manifest.schema.serialize().to_pybytes()
    table = pa.table({name: getattr(manifest, name) for name in _ARRAYS})
    digest = _digest_of_all(table, listing.encode(), texts, schema)
    table = table.replace_schema_metadata({"listing": listing, "texts": texts, "schema": schema, "digest": digest})
    with replaced(path, by_many=True) as file:
        pq.write_table(table, file, write_page_checksum=True)


def _digest_of_all(table: pa.Table, *texts: bytes) -> str:
    """Of everything that a manifest's file holds."""
    arrays = (table[name].to_numpy().astype("<i8").tobytes() for name in _ARRAYS)
    return _digest([FORMAT, *texts, *(hashlib.sha256(array).hexdigest() for array in arrays)])


def _read_table(path: Path) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
        return parquet.read()


def _from_table(table: pa.Table) -> Manifest:
    """The manifest that `_write` wrote; one of `_NOT_OURS` where it is something else."""
    metadata = table.schema.metadata
    listing, texts, schema = metadata[b"listing"], metadata[b"texts"], metadata[b"schema"]
    digests = (_digest_of_all(table, listing, texts, schema), _digest([2, texts, schema]))
    if metadata[b"digest"].decode() not in digests:
        raise ValueError("damaged, or written by another version")
    values = parse_json(texts)
    return Manifest(
        **{name: table[name].to_numpy() for name in _ARRAYS},
        uri=values["uri"],
        root=values["root"],
        fingerprint=values["fingerprint"],
        files=tuple(values["files"]),
        digests=tuple(values["digests"]),
        left_out=tuple((name, reason) for name, reason in values["left_out"]),
        num_unread=values.get("num_unread", 0),
        unread=tuple(values.get("unread", ())),
        schema=pa.ipc.read_schema(pa.py_buffer(schema)),
        other_schemas=tuple(
            (name, pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text))))
            for name, text in values.get("other_schemas", [])
        ),
    )
