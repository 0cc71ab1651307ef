"""Row groups that are too large for memory are read block after block, from the first row on.

Nothing but what stands before it leads into the middle of a Parquet column. So a row group stays open from one block to
the next, with the page and the dictionary of each column that are being read.
"""

from collections.abc import Generator
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from data.columns.decode import Rows
from data.discovery.footer import UnreadableError, open_parquet
from data.manifest import Manifest
from data.pipeline.file_columns import complete, names_to_read
from data.pipeline.old_times import check_old_times
from data.pipeline.open_files import OpenFiles
from data.pipeline.row_groups import ReadTask, check_unchanged, damage_named, decode_rows, read_row_group
from data.reading import Reading
from data.storage.retries import retried

LOCAL_BUFFER_BYTES = 1 << 16
REMOTE_BUFFER_BYTES = 1 << 19
"""So many of a column are read at once, where its row group is read in blocks; a store answers in tens of
milliseconds."""


class BlockReader:
    """Reads the blocks of tasks: those of a lane one after the other, those of several lanes at the same time."""

    def __init__(self, manifest: Manifest, names: list[str]) -> None:
        self._manifest = manifest
        self._names = names
        self._files = OpenFiles(manifest)
        self._open: dict[int, _OpenGroup] = {}
        """The row group in the middle of which each lane is."""

    def read(self, task: ReadTask) -> pa.Table:
        """The columns of the task's block; raises UnreadableError if its row group is not what the manifest says."""
        if task.is_whole:
            return read_row_group(self._manifest, task.group, self._names, self._files)

        group = self._open.get(task.lane)
        if group is None or not group.leads_to(task):
            if group is not None:
                group.close()
            group = self._open[task.lane] = _OpenGroup(self._manifest, task, self._names, self._files)
        return group.read(task.block)

    def close(self) -> None:
        """Closes all files; no thread may be reading."""
        for group in self._open.values():
            group.close()
        self._files.close()


def read_rows(reading: Reading, task: ReadTask) -> Rows:
    """Reads and decodes the rows of a single task; raises DataError with the file's name if something is wrong."""
    with closing(BlockReader(reading.manifest, reading.columns.names)) as blocks:
        return decode_rows(reading, task, blocks.read(task))


class _OpenGroup:
    """A row group that is read in blocks."""

    def __init__(self, manifest: Manifest, task: ReadTask, names: list[str], files: OpenFiles) -> None:
        self._manifest = manifest
        self._group = task.group
        self._epoch = task.epoch
        self._names = names
        self._files = files
        self._batch_rows = len(task.block)
        self._row = 0
        """The first that has not been handed out."""
        self._held: list[pa.RecordBatch] = []
        """Those read from there on."""
        self._file: pq.ParquetFile | None = None
        self._error: UnreadableError | None = None
        """There is no way past damage."""
        self._batches = self._read()

    def leads_to(self, task: ReadTask) -> bool:
        """Whether the task's block lies ahead."""
        return (task.epoch, task.group) == (self._epoch, self._group) and self._row <= task.block.start

    def read(self, block: range) -> pa.Table:
        """The rows of a block."""
        if self._error is not None:
            raise self._error
        try:
            with damage_named(self._manifest, self._group):
                stored = retried(self._manifest.filesystem, lambda: self._take_or_begin_anew(block))
                table = complete(self._manifest, self._group, self._names, stored)
        except UnreadableError as error:
            self._error = error
            self.close()
            raise
        if block.stop == self._manifest.rows[self._group]:
            self.close()
        return table

    def close(self) -> None:
        """Nothing can be read from here on."""
        self._batches.close()
        self._held.clear()
        if self._file is not None:
            self._file.close(force=True)
            self._file = None

    def _take_or_begin_anew(self, block: range) -> pa.Table:
        """What broke off cannot go on: the next attempt reads from the first row on."""
        try:
            return self._take(block)
        except OSError:
            self.close()
            self._row = 0
            self._batches = self._read()
            raise

    def _take(self, block: range) -> pa.Table:
        end = self._row + sum(batch.num_rows for batch in self._held)
        while end < block.stop:
            if end <= block.start:
                self._held.clear()
                self._row = end
            batch = next(self._batches, None)
            if batch is None:
                where = self._manifest.describe(self._group)
                raise UnreadableError(where, f"ends after {end} rows, before its footer says", "restore the file")
            self._held.append(batch)
            end += batch.num_rows

        held = pa.Table.from_batches(self._held)
        begin = block.start - self._row
        self._row = block.stop
        self._held = held.slice(begin + len(block)).to_batches()
        return held.slice(begin, len(block))

    def _read(self) -> Generator[pa.RecordBatch]:
        with self._files.lend(self._group) as parquet:
            metadata = parquet.metadata
        index = int(self._manifest.group[self._group])
        num_rows = metadata.row_group(index).num_rows if index < metadata.num_row_groups else 0
        schema = parquet.schema_arrow
        check_unchanged(self._manifest, self._group, self._names, schema, num_rows)
        asked = names_to_read(self._manifest, self._group, self._names, parquet)

        check_old_times(self._manifest, self._group, asked, parquet)
        filesystem = self._manifest.filesystem
        self._file = open_parquet(
            filesystem.open_input_file(self._manifest.path(self._group)),
            metadata=metadata,
            pre_buffer=False,
            buffer_size=LOCAL_BUFFER_BYTES if isinstance(filesystem, fs.LocalFileSystem) else REMOTE_BUFFER_BYTES,
        )
        yield from self._file.iter_batches(self._batch_rows, row_groups=[index], columns=asked, use_threads=False)
