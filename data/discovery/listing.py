"""The files below a dataset's folder: those that are read, and those that are not, which must not look like data.

Read are names that end in `.parquet`. Hidden, as in Spark, are names that begin with `.`, or with `_` and hold no `=`.
All others are named in a note. One that looks like Parquet by its name or its first bytes is an error, since its rows
would be missed in silence. So is a file or folder that is reached on two paths, since its rows would count twice.
"""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from data.discovery.schema import SCHEMA_FILE
from data.errors import DataError, one_line
from data.storage.retries import retried

PARQUET_NAME = re.compile(
    r"\.(parquet|parq|pq|pqt)(\.(gz|gzip|snappy|sz|zst|zstd|lz4|lzo|bz2|br|xz|zip))?$", re.IGNORECASE
)
"""Names that others give to Parquet files, and packed ones."""
NOT_YET = "._COPYING_"
"""Hadoop's name for a file that is on its way."""
FOLDER_MARK = "_$folder$"
"""Hadoop's name for an empty folder on an object store."""
MAGIC = (b"PAR1", b"PARE")
SMALLEST_BYTES = 12
"""Of a Parquet file: two magics and the length of its footer."""
LOOKS, LOOKS_PER_SUFFIX = 64, 4
"""Files that are opened for a look at their first bytes: a folder may hold 100,000 on an object store."""
SHOWN = 3
Prune = Callable[[str], bool]
"""Whether nothing below a folder, by its path, is wanted."""


@dataclass(frozen=True)
class Listing:
    """What lies below a dataset's folder."""

    files: tuple[fs.FileInfo, ...]
    """The Parquet files, by path."""
    unread: tuple[str, ...]
    """Paths below the root of all other files that are not hidden, sorted."""


def list_dataset(filesystem: fs.FileSystem, root: str, uri: str, prune: Prune | None = None) -> Listing:
    """The files of a dataset, or the one file that it is; nothing below the folders that `prune` names.

    Raises DataError if there are none, or some would be missed.
    """
    is_local = isinstance(filesystem, fs.LocalFileSystem)
    try:
        info = retried(filesystem, lambda: filesystem.get_file_info(root))
        if info.type == fs.FileType.NotFound:
            raise DataError(f"dataset {uri}: no such file or folder")
        if info.is_file:
            return Listing((info,), ())
        found = list(_walk(root, uri, prune) if is_local else _walk_remote(filesystem, root, prune))
    except OSError as error:
        raise DataError(f"dataset {uri}: cannot be listed ({one_line(error)})") from error

    found.sort(key=lambda entry: entry.path)
    files = tuple(entry for entry in found if entry.is_file and entry.path.endswith(".parquet"))
    used = {SCHEMA_FILE, *(below(root, entry) for entry in files)}
    others = [entry for entry in found if below(root, entry) not in used]
    _refuse_data(filesystem, root, uri, others)
    unread = tuple(below(root, entry) for entry in others)

    if not files and prune is None:
        found_instead = f", but {first_names(unread)}" if unread else ""
        raise DataError(f"dataset {uri}: no *.parquet file in it{found_instead}; name the folder that holds them")

    return Listing(files, unread)


def below(root: str, info: fs.FileInfo) -> str:
    """The path of a file below the dataset's root."""
    return str(info.path.removeprefix(root).lstrip("/"))


def first_names(names: tuple[str, ...] | list[str], count: int | None = None, kind: str = "other file") -> str:
    """`7 other files: a, b, c, …`; `count` is given where `names` are the first of more."""
    count = count or len(names)
    plural = "s" if count > 1 else ""
    return f"{count:,} {kind}{plural}: {shown_names(names, count)}"


def shown_names(names: tuple[str, ...] | list[str], count: int) -> str:
    """`a, b, c, …`: the first of so many."""
    shown = ", ".join(map(_printable, names[:SHOWN]))
    return f"{shown}, …" if count > SHOWN else shown


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is ignored."""
    if name.startswith(".") or name.endswith((NOT_YET, FOLDER_MARK)):
        return True
    return name.startswith("_") and "=" not in name  # `_day=1` is a folder of a partition


def _walk_remote(filesystem: fs.FileSystem, root: str, prune: Prune | None) -> Iterator[fs.FileInfo]:
    """All files below a folder of a store: in one listing, or folder by folder where some are not wanted."""
    folders = [root]
    while folders:
        selector = fs.FileSelector(folders.pop(), recursive=prune is None)
        for entry in retried(filesystem, partial(filesystem.get_file_info, selector)):
            if any(map(is_hidden, PurePosixPath(below(root, entry)).parts)):
                continue
            if entry.type != fs.FileType.Directory:
                yield entry
            elif prune is not None and not prune(entry.path):
                folders.append(entry.path)


def _walk(root: str, uri: str, prune: Prune | None) -> Iterator[fs.FileInfo]:
    """All files below a local folder, through links; raises DataError if one is reached twice."""
    seen = _Seen(root, uri)
    folders = [root]

    while folders:
        with os.scandir(folders.pop()) as entries:
            visible = sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
        for entry in visible:
            _check_text(entry.path.removeprefix(root).lstrip("/"), uri)
            info, state = _look(entry)
            if state is not None:
                seen.add(info.path, state)
            if info.type == fs.FileType.Directory:
                if prune is None or not prune(info.path):
                    folders.append(info.path)
            else:
                yield info


def _check_text(name: str, uri: str) -> None:
    """Raises DataError if a name is no text: Arrow does not take it."""
    if not name.isascii() and name != name.encode(errors="replace").decode():
        raise DataError(f"dataset {uri}: the name of {name!r} is not UTF-8; rename it")


def _look(entry: os.DirEntry[str]) -> tuple[fs.FileInfo, os.stat_result | None]:
    """What an entry of a folder is; NotFound for a link that leads nowhere."""
    path = entry.path
    try:
        state = entry.stat()
    except OSError:  # a link to nowhere or to itself, or the file has just been removed
        return fs.FileInfo(path, fs.FileType.NotFound), None

    if stat.S_ISDIR(state.st_mode):
        return fs.FileInfo(path, fs.FileType.Directory), state

    if stat.S_ISREG(state.st_mode):
        info = fs.FileInfo(path, fs.FileType.File, mtime_ns=state.st_mtime_ns, size=state.st_size)
        return info, state

    return fs.FileInfo(path, fs.FileType.Unknown), state


class _Seen:
    """The files and folders seen so far, by what they are rather than by path."""

    def __init__(self, root: str, uri: str) -> None:
        self._root = root
        self._uri = uri
        self._paths: dict[tuple[int, ...], str] = {}
        above = [folder.stat() for folder in (Path(root), *Path(root).resolve().parents)]
        self._above = {(state.st_dev, state.st_ino) for state in above}

    def add(self, path: str, state: os.stat_result) -> None:
        """Raises DataError if the same file or folder has been seen on another path."""
        if state.st_ino == 0:  # a filesystem without such numbers
            return
        if stat.S_ISDIR(state.st_mode) and (state.st_dev, state.st_ino) in self._above:
            raise self._error(f"{self._name(path)} leads back to a folder that it lies in", path)

        # Some filesystems give a number twice, but hardly to files of one size that were written at the same time.
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        first = self._paths.setdefault(key, path)
        if first != path:
            one, other = sorted([self._name(first), self._name(path)])
            raise self._error(f"{one} and {other} are the same", path)

    def _name(self, path: str) -> str:
        return _printable(path.removeprefix(self._root).lstrip("/"))

    def _error(self, what: str, path: str) -> DataError:
        return DataError(f"dataset {self._uri}: {what}, so that rows would count twice; remove {self._name(path)}")


def _refuse_data(filesystem: fs.FileSystem, root: str, uri: str, others: list[fs.FileInfo]) -> None:
    """Raises DataError if files that are not read look like Parquet.

    They are recognised by their names, then by the first bytes of some.
    """
    named = [entry for entry in others if _is_named_parquet(entry)]
    gone = [entry for entry in named if entry.type == fs.FileType.NotFound]
    if gone:
        raise DataError(f"dataset {uri}: {below(root, gone[0])} is a broken link; fix or remove it")

    strange = [entry for entry in named if entry.type == fs.FileType.Unknown]
    if strange:
        raise DataError(f"dataset {uri}: {below(root, strange[0])} is no regular file; remove it")

    alike = named or _with_magic(filesystem, others)
    if alike:
        names = first_names([below(root, entry) for entry in alike], kind="file")
        verb = "looks" if len(alike) == 1 else "look"
        raise DataError(
            f"dataset {uri}: {names} {verb} like data, but only names that end in .parquet are read; unpack or rename "
            "what belongs to it, and move away what does not"
        )


def _is_named_parquet(entry: fs.FileInfo) -> bool:
    return PARQUET_NAME.search(entry.base_name) is not None


def _with_magic(filesystem: fs.FileSystem, others: list[fs.FileInfo]) -> list[fs.FileInfo]:
    """Those that begin like Parquet, among the first few of each suffix."""
    by_suffix = defaultdict(list)
    for entry in others:
        if entry.is_file and entry.size >= SMALLEST_BYTES:
            by_suffix[PurePosixPath(entry.base_name).suffix.lower()].append(entry)

    chosen: list[fs.FileInfo] = []
    for entries in by_suffix.values():
        chosen += entries[:LOOKS_PER_SUFFIX]

    del chosen[LOOKS:]
    if not chosen:
        return []

    with ThreadPoolExecutor(len(chosen)) as pool:
        begins = list(pool.map(lambda entry: _first_bytes(filesystem, entry), chosen))

    return [entry for entry, begin in zip(chosen, begins, strict=True) if begin in MAGIC]


def _first_bytes(filesystem: fs.FileSystem, entry: fs.FileInfo) -> bytes:
    """Of a file; empty if it cannot be read, since nobody asked for it."""
    try:
        with filesystem.open_input_file(entry.path) as handle:
            return bytes(handle.read(len(MAGIC[0])))
    except (OSError, pa.ArrowException):
        return b""
