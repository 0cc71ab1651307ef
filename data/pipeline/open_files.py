"""Parquet files that stay open while their row groups are read: the footer of each is parsed once."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data.manifest import Manifest

MOST_COLUMN_CHUNKS = 1 << 16
"""Described by the footers that are kept, at about 0.5 KB each; but always those of the `_FEWEST` files used last."""
_FEWEST = 16


class _Open(NamedTuple):
    """A file, without what has been read of it."""

    handle: pa.NativeFile
    footer: pq.FileMetaData | None
    column_chunks: int


class OpenFiles:
    """The files of a dataset that were read last. May be used by several threads."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._lock = threading.Lock()
        self._idle: OrderedDict[str, _Open] = OrderedDict()
        """By path, the one used last at the end."""
        self._column_chunks = 0
        """Of those."""

    @contextmanager
    def lend(self, group: int) -> Iterator[pq.ParquetFile]:
        """The file of a row group, for one thread at a time: another that asks meanwhile opens it anew.

        Raises what pyarrow raises if it cannot be opened. A file on which reading fails is not kept.
        """
        path = self._manifest.path(group)
        with self._lock:
            kept = self._idle.pop(path, None)
            if kept is not None:
                self._column_chunks -= kept.column_chunks
        if kept is None:
            kept = _Open(self._manifest.filesystem.open_input_file(path), None, 0)

        try:
            # A ParquetFile holds on to the bytes that it has read: it goes, and the file and its footer stay.
            parquet = pq.ParquetFile(
                kept.handle, metadata=kept.footer, pre_buffer=True, page_checksum_verification=True
            )
            yield parquet
        except BaseException:
            kept.handle.close()
            raise
        self._keep(path, kept.handle, parquet.metadata)

    def close(self) -> None:
        """Closes the files that are not lent."""
        with self._lock:
            while self._idle:
                self._idle.popitem()[1].handle.close()
            self._column_chunks = 0

    def _keep(self, path: str, handle: pa.NativeFile, footer: pq.FileMetaData) -> None:
        if footer.num_row_groups <= 1:
            handle.close()  # nothing more is due
            return

        kept = _Open(handle, footer, footer.num_row_groups * footer.num_columns)
        with self._lock:
            replaced = self._idle.pop(path, None)
            dropped = [] if replaced is None else [replaced]
            self._idle[path] = kept
            self._column_chunks += kept.column_chunks
            while len(self._idle) > _FEWEST and self._column_chunks - _chunks(dropped) > MOST_COLUMN_CHUNKS:
                dropped.append(self._idle.popitem(last=False)[1])
            self._column_chunks -= _chunks(dropped)
        for file in dropped:
            file.handle.close()


def _chunks(files: list[_Open]) -> int:
    return sum(file.column_chunks for file in files)
