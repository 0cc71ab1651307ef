"""Counts of a dataset's values, stored by `adatt stats` beside it, so that later starts need not count anew.

    <the folder that the dataset lies in>/_adatt/<fingerprint>/<column>.arrow
    ~/.cache/adatt/stats/<fingerprint>/<column>.arrow    where that cannot be written

Other readers take names that begin with an underscore for no data. `<column>` is a digest of the column's path. A
dataset that has changed has another fingerprint.
"""

import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import fs

from data.manifest import Manifest, digest_of
from data.profile.column import ColumnProfile
from data.profile.dataset import DatasetProfile

CACHE = Path("~/.cache/adatt/stats")
_NOT_OURS = (pa.ArrowException, OSError, ValueError, KeyError)
"""What reading such a file raises if it is missing, damaged or something else."""


class CountedColumn(NamedTuple):
    """The values of a column."""

    table: pa.Table
    """`value` and `count`, the most frequent first."""
    is_exact: bool
    """False: there are more values, and counts are rough."""


def counted(column: ColumnProfile) -> CountedColumn | None:
    """The values of a column that has been looked at; None where they were not kept."""
    counts = column.counts
    return None if counts is None or not counts.repeats else CountedColumn(counts.table, counts.is_exact)


def store_counts(manifest: Manifest, profile: DatasetProfile) -> str | None:
    """Writes the counts of all columns that have been counted, and says where; None: nowhere could be written."""
    for filesystem, folder in _places(manifest):
        try:
            filesystem.create_dir(folder, recursive=True)
            for path, column in profile.columns.items():
                found = counted(column)
                if found is not None:
                    _write(filesystem, _file(folder, path), path, found)
        except OSError:
            continue
        return folder
    return None


def stored_counts(manifest: Manifest, columns: Iterable[str]) -> dict[str, CountedColumn]:
    """Those of these columns that have been stored."""
    found: dict[str, CountedColumn] = {}
    for path in columns:
        for filesystem, folder in _places(manifest):
            try:
                found[path] = _read(filesystem, _file(folder, path), path)
            except _NOT_OURS:
                continue
            break
    return found


def _places(manifest: Manifest) -> Iterator[tuple[fs.FileSystem, str]]:
    """Where counts are stored, the first choice first."""
    name = manifest.fingerprint[:16]
    parent = posixpath.dirname(manifest.root) or manifest.root
    yield manifest.filesystem, f"{parent}/_adatt/{name}"
    try:
        yield fs.LocalFileSystem(), (CACHE.expanduser() / name).as_posix()
    except RuntimeError:  # the user has no home
        return


def _file(folder: str, path: str) -> str:
    return f"{folder}/{digest_of([path])[:16]}.arrow"


def _write(filesystem: fs.FileSystem, file: str, path: str, found: CountedColumn) -> None:
    """Raises OSError if it cannot be written. The file appears complete or not at all."""
    metadata = {"column": path, "is_exact": str(found.is_exact)}
    table = found.table.replace_schema_metadata(metadata).combine_chunks()
    partial = f"{file}.partial"
    with filesystem.open_output_stream(partial) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    filesystem.move(partial, file)


def _read(filesystem: fs.FileSystem, file: str, path: str) -> CountedColumn:
    with filesystem.open_input_file(file) as stream:
        table = pa.ipc.open_file(stream).read_all()
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if metadata["column"] != path or table.column_names != ["value", "count"]:
        raise ValueError(file)
    return CountedColumn(table, metadata["is_exact"] == "True")
