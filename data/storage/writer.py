"""Writing a dataset: zstd Parquet files of even row groups in a folder that appears complete or not at all.

    OUT.partial-<pid>/     while it is written
    OUT/                   the same folder, renamed, once everything is in it

Local folders only. Several processes may write files below the staged folder; one of them owns it.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.discovery.schema import SCHEMA_FILE, Column, dump_schema
from data.errors import DataError

ROW_GROUP_ROWS = 32_768
"""The unit that the global order permutes: 40 mixed columns of it are a few MB, decoded in some 50 ms."""
_FEWEST_ROWS, _MOST_ROWS = 16_384, 65_536


@contextmanager
def staged_directory(out: Path) -> Iterator[Path]:
    """A new folder beside `out` to fill; it becomes `out` at the end, or is gone again after any exception.

    DataError before anything is written where `out` is not a local folder that is empty or can be made.
    """
    partial, missing = _prepare(out)
    try:
        with _explained(out):
            partial.mkdir(parents=True)
        yield partial
        with _explained(out):
            partial.rename(out.resolve())  # atomic; replaces a folder only if that is empty
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:
            with suppress(OSError):  # never made, or used by someone else by now
                parent.rmdir()
        raise


def write_parquet(
    path: Path, schema: pa.Schema, tables: Iterable[pa.Table], row_group_rows: int = ROW_GROUP_ROWS
) -> int:
    """Write one file from a stream of tables of any size and return its rows.

    Every row group but the last has exactly `row_group_rows` rows. Raises DataError if the disk does not take them.
    """
    assert _FEWEST_ROWS <= row_group_rows <= _MOST_ROWS, row_group_rows
    rows = 0

    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            for group in _regroup(tables, row_group_rows):
                writer.write_table(group, row_group_size=row_group_rows)
                rows += group.num_rows

    return rows


def write_schema(folder: Path, columns: Iterable[Column]) -> None:
    """Write `schema.json` into the dataset's folder."""
    (folder / SCHEMA_FILE).write_text(dump_schema(list(columns)), encoding="utf-8")


def _regroup(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows`, then the rest; slices and joins copy nothing."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while held.num_rows >= rows:
            yield held.slice(0, rows)
            held = held.slice(rows)

    if held is not None and held.num_rows > 0:
        yield held


def _prepare(out: Path) -> tuple[Path, list[Path]]:
    """The staged folder's path, and the folders above it that have to be made for it, innermost first."""
    _check_local(out)
    with _explained(out):
        out = out.resolve()
        if out.exists() and not out.is_dir():
            raise DataError(f"{out} is a file; choose another folder or remove it")
        if out.is_dir() and any(out.iterdir()):
            raise DataError(f"{out} exists and is not empty; choose another folder or remove it")
        partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
        if partial.exists():
            raise DataError(f"{partial} is left from a run that was killed; remove it and start again")
        return partial, [parent for parent in out.parents if not parent.exists()]


def _check_local(out: Path) -> None:
    """`Path` has made one slash of the two in s3://bucket, which would become a folder named 's3:'."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", str(out)):
        raise DataError(f"{out}: only a local folder can be written; choose one and copy it afterwards")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What the disk refuses becomes a DataError that names the path."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error
