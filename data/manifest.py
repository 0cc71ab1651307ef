"""What a dataset is made of: its files, their row groups, and a fingerprint that notices a change.

`data.discovery.dataset` finds it out, and `data.storage.manifest_file` keeps it in a file.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from pyarrow import fs

from data.discovery.fields import types_named
from data.discovery.listing import first_names, shown_names
from data.discovery.partitions import key_array, keys_of
from data.discovery.schema import SCHEMA_FILE, Column, parse_schema
from data.discovery.source import Source
from data.discovery.windows import number_windows, window_name
from data.errors import DataError, one_line
from data.hashing import Int64
from data.storage.filesystem import open_uri
from data.storage.retries import retried

OnBadFile = Literal["fail", "skip"]
"""fail: a file that cannot be read is an error. skip: it is left out, and what was left out is recorded."""

FileState = tuple[int, int, str]
"""Rows, row groups and digest of a file."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """A dataset's row groups in the order of its files; one entry per row group in each array."""

    source: Source
    """Where it was found."""
    files: tuple[str, ...]
    """Paths below the dataset's root, sorted; those by which it has grown follow, sorted likewise."""
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
    num_waiting: int = 0
    """Folders that do not hold the file of `Source.complete` yet, whose files are in none of the above."""
    waiting: tuple[str, ...] = ()
    """The first of them."""
    other_schemas: tuple[tuple[str, pa.Schema], ...] = field(default=(), repr=False)
    """Those that differ from the first, each with the first of `files` that has it."""
    layouts: tuple[int, ...] = field(default=(), repr=False)
    """Of each file, which of `schemas` it has; not known of datasets that were opened by earlier versions."""
    history: tuple[str, ...] = field(default=(), repr=False)
    """Fingerprints that it had before it grew, or files of it were repaired."""

    @cached_property
    def filesystem(self) -> fs.FileSystem:
        """Where the files are; opened when first asked for, so a manifest is usable where its data is not."""
        return open_uri(self.source.uris[0])[0]

    @property
    def uri(self) -> str:
        """Where the dataset lies, for messages."""
        return str(self.source)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Its own, and those that it had before."""
        return (self.fingerprint, *self.history)

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
        """What lies in the dataset's folder and is not read, in a line; None if there is no such file."""
        if not self.num_unread:
            return None
        return f"dataset {self.uri}: only *.parquet is read, not {first_names(self.unread, self.num_unread)}"

    @property
    def waiting_note(self) -> str | None:
        """Which windows are not complete yet, in a line; None if all are."""
        if not self.num_waiting:
            return None
        what = "1 window waits" if self.num_waiting == 1 else f"{self.num_waiting:,} windows wait"
        return f"{what} for {self.source.complete!r}: {shown_names(self.waiting, self.num_waiting)}"

    @cached_property
    def schemas(self) -> list[tuple[str, pa.Schema]]:
        """Every way in which files store columns, with the path of the first that does it so."""
        first_with_rows = int(np.flatnonzero(self.rows)[0])
        others = [(self._path_of(file), schema) for file, schema in self.other_schemas]
        return [(self.path(first_with_rows), self.schema), *others]

    @cached_property
    def has_times(self) -> list[bool]:
        """Of each of `schemas`: whether a column holds times, or something inside it does."""
        return [any("timestamp" in str(kind) for kind in schema.types) for _, schema in self.schemas]

    def schema_of(self, group: int) -> pa.Schema:
        """How the file of a row group stores its columns."""
        return self.schemas[self.layout_of(group)][1]

    def layout_of(self, group: int) -> int:
        """Which of `schemas` the file of a row group has."""
        return self.layouts[self.file[group]] if self.layouts else 0

    @cached_property
    def keys(self) -> dict[str, pa.Array]:
        """The value of each Hive partition's key for each file: of the keys that the folders of all files have.

        Folders above the dataset's own do not count: they are not part of its fingerprint.
        """
        columns: dict[str, list[str | None]] = {}
        of_folder: dict[str, dict[str, str | None]] = {}
        for name in self.files:
            folder = name.rpartition("/")[0]
            if folder not in of_folder:
                of_folder[folder] = keys_of(folder)
            for key, value in of_folder[folder].items():
                columns.setdefault(key, []).append(value)
        return {key: key_array(values) for key, values in columns.items() if len(values) == len(self.files)}

    @cached_property
    def column_names(self) -> list[str]:
        """The columns that at least one file has, and the keys of the folders."""
        names = (name for _, schema in self.schemas for name in schema.names)
        return list(dict.fromkeys([*names, *self.keys]))

    def has(self, name: str) -> bool:
        """Whether at least one file has such a column, or field of one, or all folders such a key."""
        return name in self.keys or any(types_named(schema, name) for _, schema in self.schemas)

    def num_rows_without(self, name: str) -> int:
        """Rows of the files that lack a column, and whose folders have no such key."""
        if name in self.keys or not self.layouts:
            return 0
        lacking = [not types_named(schema, name) for _, schema in self.schemas]
        return int(self.rows[np.array(lacking)[np.array(self.layouts)][self.file]].sum())

    def of_groups(self, groups: Int64) -> Self:
        """The dataset of some of its row groups, whose rows are numbered anew."""
        arrays = {name: getattr(self, name)[groups] for name in ("file", "group", "rows", "bytes")}
        digests = [(self.digests[file], group) for file, group in zip(arrays["file"], arrays["group"], strict=True)]
        return replace(self, **arrays, fingerprint=digest_of(digests), history=())

    def path(self, group: int) -> str:
        """Path of a row group's file, for the filesystem."""
        return self._path_of(self.files[self.file[group]])

    def _path_of(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def describe(self, group: int) -> str:
        """`row group 3 of train/day_07.parquet`, for messages."""
        return f"row group {self.group[group]} of {self.path(group)}"


def manifest_change(before: Manifest, now: Manifest) -> str | None:
    """What makes the fingerprints differ, naming the first such file by path; None if they are equal, or if `now` is
    `before` grown.
    """
    if before.fingerprint in now.fingerprints:
        return None

    old = file_states(before)
    new = file_states(now)
    name = next(name for name in sorted({*old, *new}) if old.get(name) != new.get(name))
    return file_change(name or PurePosixPath(now.root).name, old.get(name), new.get(name))


def file_change(name: str, old: FileState | None, new: FileState | None) -> str:
    """How a file has changed, in words; None: it was not there, or is not."""
    if old is None:
        return f"{name} is new"
    if new is None:
        return f"{name} is gone"
    if old[:2] == new[:2]:
        return f"the contents of {name} changed (same number of rows and row groups)"
    noun = "row group" if new[1] == 1 else "row groups"
    return f"{name} has {new[0]:,} rows in {new[1]:,} {noun}, had {old[0]:,} in {old[1]:,}"


def way_out(old: FileState | None, new: FileState | None) -> str:
    """What to do about a training file that has changed, for messages."""
    if old is not None and new is not None and old[:2] == new[:2]:
        ways = "restore it, train in another folder, or, if its rows are the same, accept it with --accept-changed-data"
        return f"; {ways}"
    return "; restore it, or train in another folder"


def as_before(before: Manifest, now: Manifest) -> Manifest:
    """`before` where `now` lies, if they differ in files only that one of them could not read; else `now`."""
    unreadable = {name for name, _ in (*before.left_out, *now.left_out)}
    old = file_states(before)
    new = file_states(now)
    readable = {*old, *new} - unreadable
    if any(old.get(name) != new.get(name) for name in readable):
        return now

    return replace(before, source=now.source, root=now.root)


def file_states(manifest: Manifest) -> dict[str, FileState]:
    """Rows, row groups and digest of each file."""
    num_files = len(manifest.files)
    groups = np.bincount(manifest.file, minlength=num_files)
    rows = np.zeros(num_files, np.int64)
    np.add.at(rows, manifest.file, manifest.rows)

    states = zip(rows.tolist(), groups.tolist(), manifest.digests, strict=True)
    return dict(zip(manifest.files, states, strict=True))


def _read_text(filesystem: fs.FileSystem, path: str) -> str:
    return str(filesystem.open_input_file(path).read().decode())


def read_schema(manifest: Manifest) -> dict[str, Column]:
    """Columns of the `schema.json` in the dataset's folder or the one above it; empty if there is none."""
    filesystem = manifest.filesystem
    for folder in (manifest.root, str(PurePosixPath(manifest.root).parent)):
        path = f"{folder}/{SCHEMA_FILE}"
        try:
            if retried(filesystem, partial(filesystem.get_file_info, path)).type != fs.FileType.File:
                continue
            return parse_schema(retried(filesystem, partial(_read_text, filesystem, path)))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({one_line(error)}); fix its permissions or remove it") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a dataset schema ({error!r}); fix or remove it") from error

    return {}


def digest_of(parts: Iterable[object]) -> str:
    """SHA-256 of the parts as Python writes them; never change it, since runs hold such digests."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode() + b"\n")
    return digest.hexdigest()
