"""Parquet files that stay open while their row groups are read: the footer of each is parsed once."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from data.manifest import Manifest

MOST_COLUMN_CHUNKS = 1 << 18
"""Described by the footers that are kept, at about 0.5 KB each; but always those of the `_FEWEST` files used last."""
_FEWEST = 16


class OpenFiles:
    """The files of a dataset that were read last. May be used by several threads."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._lock = threading.Lock()
        self._idle: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        """By path, the one used last at the end."""

    @contextmanager
    def lend(self, group: int) -> Iterator[pq.ParquetFile]:
        """The file of a row group, for one thread at a time: another that asks meanwhile opens it anew.

        Raises what pyarrow raises if it cannot be opened. A file on which reading fails is not kept.
        """
        path = self._manifest.path(group)
        with self._lock:
            parquet = self._idle.pop(path, None)
        if parquet is None:
            parquet = self._open(path)

        try:
            yield parquet
        except BaseException:
            parquet.close(force=True)
            raise
        self._keep(path, parquet)

    def close(self) -> None:
        """Closes the files that are not lent."""
        with self._lock:
            while self._idle:
                self._idle.popitem()[1].close(force=True)

    def _open(self, path: str) -> pq.ParquetFile:
        handle = self._manifest.filesystem.open_input_file(path)
        try:
            return pq.ParquetFile(handle, pre_buffer=True, page_checksum_verification=True)
        except BaseException:
            handle.close()
            raise

    def _keep(self, path: str, parquet: pq.ParquetFile) -> None:
        with self._lock:
            replaced = self._idle.pop(path, None)
            dropped = [] if replaced is None else [replaced]
            self._idle[path] = parquet
            while len(self._idle) > _FEWEST and sum(map(_column_chunks, self._idle.values())) > MOST_COLUMN_CHUNKS:
                dropped.append(self._idle.popitem(last=False)[1])
        for file in dropped:
            file.close(force=True)


def _column_chunks(parquet: pq.ParquetFile) -> int:
    return int(parquet.metadata.num_row_groups * parquet.metadata.num_columns)
