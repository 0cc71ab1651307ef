"""What a Parquet file says of itself, and whether it can be believed."""

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from data.discovery.fields import types_named
from data.errors import DataError, one_line
from data.storage.retries import retried

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What Arrow raises on a file that is cut short, has wrong bytes in it, or is gone."""


class UnreadableError(DataError):
    """A file, or a part of one, cannot be read as it was once written: what `data.on_bad_file` is about."""

    def __init__(self, where: str, reason: str, advice: str) -> None:
        super().__init__(where, reason, advice)  # all of them, or pickle could not make it anew on another rank
        self.reason = reason

    def __str__(self) -> str:
        return "{}: {}; {}".format(*self.args)


@dataclass(frozen=True)
class Footer:
    """The row groups of a file."""

    rows: list[int]
    bytes: list[int]
    """Uncompressed sizes."""
    schema: pa.Schema
    digest: str
    """Hash of the footer as it is stored."""


def open_parquet(handle: pa.NativeFile, *, unit: str = "us", **options: Any) -> pq.ParquetFile:
    """A Parquet file as all of the program reads it.

    Times of the old type INT96 come in microseconds: in nanoseconds, as by default, those after 2262 would be others.
    """
    return pq.ParquetFile(handle, coerce_int96_timestamp_unit=unit, page_checksum_verification=True, **options)


def read_footer(filesystem: fs.FileSystem, info: fs.FileInfo) -> Footer:
    """The footer of a file; raises UnreadableError if it has none or contradicts itself."""

    def read() -> tuple[pq.FileMetaData, pa.Schema, bytes]:
        with filesystem.open_input_file(info.path) as handle:
            parquet = open_parquet(handle)
            tail_bytes = parquet.metadata.serialized_size + 8
            tail = handle.read_at(tail_bytes, max(info.size - tail_bytes, 0))
            return parquet.metadata, parquet.schema_arrow.remove_metadata(), tail

    try:
        metadata, schema, tail = retried(filesystem, read)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    except DAMAGE as error:
        raise _unreadable(info.path, one_line(error)) from error

    rows = [group.num_rows for group in groups]
    total = metadata.num_rows
    if sum(rows) != total or min(rows, default=0) < 0:
        raise _unreadable(info.path, f"its row groups hold {sum(rows)} rows, its footer says {total}")

    sizes = [group.total_byte_size for group in groups]
    return Footer(rows, sizes, schema, digest=hashlib.sha256(tail).hexdigest())


def same_columns(one: pa.Schema, other: pa.Schema) -> bool:
    """Whether two files store columns alike; they are read by name, so their order is free, and so is `not null`."""
    if one.equals(other):
        return True
    if set(one.names) != set(other.names):
        return False
    return all(types_named(one, name) == types_named(other, name) for name in one.names)


def _unreadable(path: str, reason: str) -> UnreadableError:
    return UnreadableError(path, f"not a readable Parquet file ({reason})", "write it anew or remove it")
