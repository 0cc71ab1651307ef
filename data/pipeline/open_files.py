"""Parquet files that stay open while their row groups are read: the footer of each is parsed once."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from data.discovery.footer import open_parquet
from data.manifest import Manifest

MOST_COLUMN_CHUNKS = 1 << 14
"""Described by the footers that are kept, at about 1.1 KB each; but always those of the `_FEWEST` files used last."""
_FEWEST = 4


class OpenFiles:
    """The files of a dataset that were read last. May be used by several threads, which read from one file at once."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[pa.NativeFile, pq.FileMetaData]] = OrderedDict()
        """Files and their footers by path, the one used last at the end. A file closes when nobody has it any more."""
        self._column_chunks = 0
        """Described by those footers."""

    @contextmanager
    def lend(self, group: int) -> Iterator[pq.ParquetFile]:
        """The file of a row group; raises what pyarrow raises if it cannot be opened.

        A ParquetFile holds on to what it reads, so each reader is given one of its own. A file on which reading fails
        is not kept.
        """
        path = self._manifest.path(group)
        with self._lock:
            handle, footer = self._kept.get(path, (None, None))
        if handle is None:
            handle = self._manifest.filesystem.open_input_file(path)

        try:
            parquet = open_parquet(handle, metadata=footer, pre_buffer=True)
            yield parquet
        except BaseException:
            self._drop(path)
            raise
        if parquet.metadata.num_row_groups > 1:  # or nothing more is due
            self._keep(path, handle, parquet.metadata)

    def close(self) -> None:
        """Keeps no file any more."""
        with self._lock:
            self._kept.clear()
            self._column_chunks = 0

    def _keep(self, path: str, handle: pa.NativeFile, footer: pq.FileMetaData) -> None:
        with self._lock:
            if path not in self._kept:
                self._kept[path] = (handle, footer)
                self._column_chunks += _column_chunks(footer)
            self._kept.move_to_end(path)
            while len(self._kept) > _FEWEST and self._column_chunks > MOST_COLUMN_CHUNKS:
                self._column_chunks -= _column_chunks(self._kept.popitem(last=False)[1][1])

    def _drop(self, path: str) -> None:
        with self._lock:
            if path in self._kept:
                self._column_chunks -= _column_chunks(self._kept.pop(path)[1])


def _column_chunks(footer: pq.FileMetaData) -> int:
    return int(footer.num_row_groups * footer.num_columns)
