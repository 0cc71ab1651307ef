"""What a dataset is made of: its files, their row groups, and a fingerprint that notices a change.

Reading 100,000 footers takes minutes on an object store, so a manifest is cached in the user's cache folder, under the
listing of the dataset (paths, sizes, times of modification). The cache is Parquet with metadata; nothing is unpickled.
"""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from data.errors import DataError
from data.hashing import Int64
from data.schema import SCHEMA_FILE, Column, parse_schema

FOOTER_THREADS = 32
"""Footers are read at once; an object store answers each in tens of milliseconds."""
CACHE = Path("~/.cache/adatt/manifests")


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
    fingerprint: str
    """Hash of all paths, sizes and footers: the same data copied elsewhere has the same fingerprint."""
    filesystem: fs.FileSystem = field(repr=False)
    root: str = field(repr=False)

    @property
    def num_rows(self) -> int:
        """Rows of the whole dataset."""
        return int(self.rows.sum())

    @property
    def window(self) -> Int64:
        """Time window of each row group: its directory, or its file where that lies at the root."""
        names = [str(PurePosixPath(name).parent) for name in self.files]
        keys = [name if parent == "." else parent for name, parent in zip(self.files, names, strict=True)]
        return np.unique(keys, return_inverse=True)[1].astype(np.int64)[self.file]

    def path(self, group: int) -> str:
        """Path of a row group's file, for the filesystem."""
        name = self.files[self.file[group]]
        return f"{self.root}/{name}" if name else self.root

    def describe(self, group: int) -> str:
        """`row group 3 of train/day_07.parquet`, for messages."""
        return f"row group {self.group[group]} of {self.path(group)}"


def read_manifest(uri: str, cache: Path | None = CACHE) -> Manifest:
    """Manifest of the dataset at `uri` (a path or any URI that pyarrow.fs opens); DataError where there is none."""
    filesystem, root = open_uri(uri)
    infos = _list_files(filesystem, root, uri)
    names = tuple(info.path.removeprefix(root).lstrip("/") for info in infos)
    listing = _digest((name, info.size, info.mtime_ns) for name, info in zip(names, infos, strict=True))
    cached = _cache_file(cache, f"{_digest([(uri, root)])}.parquet")
    table = _load_cached(cached, listing) or _read_footers(filesystem, infos, names)
    manifest = _from_table(uri, filesystem, root, table)
    if manifest.num_rows == 0:
        raise DataError(
            f"dataset {uri}: its {len(names)} Parquet files hold no rows; write some or name another dataset"
        )
    if cached:
        _store_cached(cached, table, listing)
    return manifest


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
        return fs.LocalFileSystem(), Path(uri).absolute().as_posix()
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError(
            f"dataset {uri}: {one_line(error)}; give a local path or a URI that pyarrow.fs opens"
        ) from error
    return filesystem, root.rstrip("/")


def one_line(error: BaseException) -> str:
    """The first line of an error's message; Arrow's go on with advice to programmers."""
    return (str(error).strip().splitlines() or [repr(error)])[0].rstrip(".")


def _list_files(filesystem: fs.FileSystem, root: str, uri: str) -> list[fs.FileInfo]:
    try:
        info = filesystem.get_file_info(root)
        if info.type == fs.FileType.NotFound:
            raise DataError(f"dataset {uri}: no such file or folder")
        found = [info] if info.is_file else filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    except OSError as error:
        raise DataError(f"dataset {uri}: cannot be listed ({one_line(error)})") from error
    infos = [entry for entry in found if entry.is_file and _is_data(entry.path.removeprefix(root), info.is_file)]
    if not infos:
        raise DataError(f"dataset {uri}: no *.parquet file in it; name the folder that holds them")
    return sorted(infos, key=lambda entry: entry.path)


def _is_data(name: str, is_root: bool) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(("_", ".")) for part in parts)
    return is_root or (name.endswith(".parquet") and not hidden)


def _read_footers(filesystem: fs.FileSystem, infos: list[fs.FileInfo], names: tuple[str, ...]) -> pa.Table:
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        footers = list(pool.map(lambda info: _read_footer(filesystem, info), infos))
    for info, (_, schema, _) in zip(infos, footers, strict=True):
        _check_same_schema(footers[0][1], schema, infos[0].path, info.path)
    columns = {
        "file": [index for index, (groups, _, _) in enumerate(footers) for _ in groups],
        "group": [index for groups, _, _ in footers for index in range(len(groups))],
        "rows": [rows for groups, _, _ in footers for rows, _ in groups],
        "bytes": [size for groups, _, _ in footers for _, size in groups],
    }
    fingerprint = _digest(
        (name, info.size, tail) for name, info, (_, _, tail) in zip(names, infos, footers, strict=True)
    )
    table = pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})
    metadata = {"files": "\n".join(names), "fingerprint": fingerprint, "schema": footers[0][1].serialize().to_pybytes()}
    return table.replace_schema_metadata(metadata)


def _read_footer(filesystem: fs.FileSystem, info: fs.FileInfo) -> tuple[list[tuple[int, int]], pa.Schema, str]:
    """(rows, bytes) of each row group, the Arrow schema, and a hash of the footer's bytes."""
    try:
        with filesystem.open_input_file(info.path) as handle:
            parquet = pq.ParquetFile(handle)
            tail_bytes = parquet.metadata.serialized_size + 8
            tail = handle.read_at(tail_bytes, max(info.size - tail_bytes, 0))
            groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]
            schema = parquet.schema_arrow.remove_metadata()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{info.path}: not a readable Parquet file ({one_line(error)}); write it anew or remove it"
        ) from error
    return [(entry.num_rows, entry.total_byte_size) for entry in groups], schema, hashlib.sha256(tail).hexdigest()


def _check_same_schema(first: pa.Schema, other: pa.Schema, first_path: str, other_path: str) -> None:
    """Same columns of the same types; columns are read by name, so their order is free, and so is `not null`."""
    if first.equals(other):
        return
    for name in dict.fromkeys([*first.names, *other.names]):
        found, expected = _type_text(other, name), _type_text(first, name)
        if found != expected:
            raise DataError(
                f"{other_path}: column {name!r} is {found}, but {expected} in {first_path}; write both alike"
            )


def _type_text(schema: pa.Schema, name: str) -> str:
    return str(schema.field(name).type) if name in schema.names else "missing"


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


def _load_cached(path: Path | None, listing: str) -> pa.Table | None:
    """The cached table, or None where there is none for exactly this listing; a damaged cache counts as none."""
    if path is None or not path.is_file():
        return None
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        return None
    return table if (table.schema.metadata or {}).get(b"listing") == listing.encode() else None


def _store_cached(path: Path, table: pa.Table, listing: str) -> None:
    """Best effort: a read-only home only costs the next start some time."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), b"listing": listing}), partial)
        partial.replace(path)
    except OSError:
        with suppress(OSError):  # where the folder is a file, as below HOME=/dev/null, it fails too
            partial.unlink()


def _from_table(uri: str, filesystem: fs.FileSystem, root: str, table: pa.Table) -> Manifest:
    metadata = table.schema.metadata
    arrays = {name: table[name].to_numpy() for name in ("file", "group", "rows", "bytes")}
    return Manifest(
        uri=uri,
        files=tuple(metadata[b"files"].decode().split("\n")),
        schema=pa.ipc.read_schema(pa.py_buffer(metadata[b"schema"])),
        fingerprint=metadata[b"fingerprint"].decode(),
        filesystem=filesystem,
        root=root,
        **arrays,
    )
