"""What `adatt predict` writes: a Parquet file for each lane, and a marker once all of them are complete.

The files are written in place, since an object store cannot rename a folder. They count once `_SUCCESS` is there; the
program's own reader, like others, takes a name with an underscore for no data.

A lane holds in memory one output row group, and three of the input for the columns that are copied.

Shapes: R rows, T tasks.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from data.columns.numbers import Float32
from data.errors import DataError, one_line
from data.hashing import Int64
from data.manifest import Manifest
from data.prefetch import Prefetcher
from data.reading import Reading
from data.row_groups import read_row_group, tasks_of_epoch
from data.storage.filesystem import open_uri
from data.storage.paths import path_of
from trainer.distributed.world import EXPECTED_ERRORS, World

MARKER = "_SUCCESS"
ROW_GROUP_ROWS, ROW_GROUP_BYTES = 1 << 17, 32 << 20
"""An output row group ends with the batch that reaches one of these (bytes of the copied columns in memory)."""


@dataclass(frozen=True)
class Scored:
    """What was scored: the content of the marker."""

    samples: int
    """Of the checkpoint."""
    fingerprint: str
    """Of the input."""
    rows: int
    files: int
    seconds: float

    def __str__(self) -> str:
        speed = self.rows / self.seconds
        return f"{self.rows:,} rows scored at {self.samples:,} samples, {speed:,.0f} rows/s: {self.files:,} files"


class Output:
    """The folder written to, on any filesystem."""

    def __init__(self, uri: str) -> None:
        if "://" not in uri:
            path_of("--out", uri)
        self._uri = uri
        self.filesystem, self._root = open_uri(uri)
        self._made = False

    def path(self, name: str) -> str:
        """Of a file in the folder, on its filesystem."""
        return f"{self._root}/{name}"

    def check(self, source: Manifest) -> None:
        """DataError where the folder is in use, or part of the dataset that is read; writes nothing."""
        with self.explained():
            info = self.filesystem.get_file_info(self._root)
            names = self._names() if info.type == fs.FileType.Directory else []
        if info.type == fs.FileType.File:
            raise DataError(f"--out {self._uri} is a file; name a folder that is empty or does not exist")
        if names:
            state = "is not empty" if MARKER in names else f"is not empty, and holds no {MARKER} of a complete output"
            raise DataError(f"--out {self._uri} {state}; choose another folder or remove it")
        if self.filesystem.equals(source.filesystem) and self._lies_in(source.root):
            raise DataError(f"--out {self._uri} lies in the dataset {source.uri} and would change it; choose another")

    def _lies_in(self, root: str) -> bool:
        """Whether the folder is below another one, links on the way included."""
        inner, outer = self._root, root
        if isinstance(self.filesystem, fs.LocalFileSystem):
            inner, outer = os.path.realpath(inner), os.path.realpath(outer)
        return f"{inner}/".startswith(f"{outer}/")

    def create(self) -> None:
        """Makes the folder."""
        with self.explained():
            self._made = self.filesystem.get_file_info(self._root).type == fs.FileType.NotFound
            self.filesystem.create_dir(self._root, recursive=True)

    def finish(self, names: list[str], scored: Scored) -> None:
        """Writes the marker; DataError where one of the files is not here."""
        with self.explained():
            missing = sorted({*names} - {*self._names()})
            if missing:
                raise DataError(
                    f"--out {self._uri}: {missing[0]} has been written, but not here; name storage that all nodes share"
                )
            with self.filesystem.open_output_stream(self.path(MARKER)) as stream:
                stream.write(json.dumps(asdict(scored)).encode() + b"\n")

    def remove(self) -> None:
        """Removes the folder if it was made here and holds nothing any more, as far as that is possible."""
        with suppress(OSError):
            if self._made and not self._names():
                self.filesystem.delete_dir(self._root)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What the filesystem refuses becomes a DataError that names the folder."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"--out {self._uri}: cannot be written ({one_line(error)}); make room, or name another place "
                "that all ranks can write to"
            ) from error

    def _names(self) -> list[str]:
        return [info.base_name for info in self.filesystem.get_file_info(fs.FileSelector(self._root))]


class LaneFile:
    """The file of one lane, which comes into being with its first row group."""

    def __init__(self, output: Output, lane: int, schema: pa.Schema, reading: Reading, copied: list[str]) -> None:
        self.name = f"part-{lane:05}.parquet"
        self.rows = 0
        """Added so far."""
        self._output, self._schema = output, schema
        types = [field.type for field in schema][len(schema) - len(copied) :]
        self._copied = _CopiedColumns(reading, lane, copied, types) if copied else None
        self._writer: pq.ParquetWriter | None = None
        # Held rows are copied at once, and no object is kept of each batch: between what the batches allocate and free,
        # such small things leave holes in the heap that no later batch fits in, a gigabyte of them.
        most_rows, num_tasks = ROW_GROUP_ROWS + reading.rows_per_lane, len(schema) - 1 - len(copied)
        self._numbers_R = np.empty(most_rows, np.int64)
        self._predictions_TR = np.empty((num_tasks, most_rows), np.float32)
        self._held_rows = 0

    def add(self, row_ids_R: Int64, predictions_RT: Float32) -> None:
        """Adds rows; DataError where the filesystem does not take them, or the columns to copy cannot be read."""
        if len(row_ids_R) == 0:
            return
        place = slice(self._held_rows, self._held_rows + len(row_ids_R))
        self._numbers_R[place], self._predictions_TR[:, place] = row_ids_R, predictions_RT.T
        self._held_rows += len(row_ids_R)
        self.rows += len(row_ids_R)
        copied_bytes = self._copied.reach(self._held_rows) if self._copied else 0
        if self._held_rows >= ROW_GROUP_ROWS or copied_bytes >= ROW_GROUP_BYTES:
            self._write()

    def finish(self) -> None:
        """Completes the file; without rows there is none."""
        if self._held_rows:
            self._write()
        if self._writer:
            with self._output.explained():
                self._writer.close()
        self.close()

    def close(self) -> None:
        """Ends the reading."""
        if self._copied:
            self._copied.close()

    def remove(self) -> None:
        """Removes what has been written, as far as that is possible."""
        self.close()
        if self._writer:
            with suppress(OSError, pa.ArrowException):
                self._writer.close()
            self._writer.is_open = False  # or it tries again when it is collected
            with suppress(OSError):
                self._output.filesystem.delete_file(self._output.path(self.name))

    def _write(self) -> None:
        """Writes the rows held as one row group."""
        rows = slice(self._held_rows)
        columns = [pa.array(self._numbers_R[rows]), *map(pa.array, self._predictions_TR[:, rows])]
        copied = self._copied.take(self._held_rows) if self._copied else []
        table = pa.table([*columns, *copied], schema=self._schema)
        with self._output.explained():
            if self._writer is None:
                path, filesystem = self._output.path(self.name), self._output.filesystem
                self._writer = pq.ParquetWriter(
                    path, self._schema, filesystem=filesystem, compression="zstd", write_page_checksum=True
                )
            self._writer.write_table(table)
        self._held_rows = 0


class _CopiedColumns:
    """Columns of a lane's rows as they are in the input, read ahead in a thread."""

    def __init__(self, reading: Reading, lane: int, names: list[str], types: list[pa.DataType]) -> None:
        self._tables = Prefetcher(_read(reading, lane, names, types), depth=1)
        self._held: list[pa.Table] = []
        self._held_rows = self._held_bytes = 0

    def reach(self, rows: int) -> int:
        """Reads until the next `rows` rows are held; their bytes, about. DataError where they cannot be read."""
        while self._held_rows < rows:
            table = next(self._tables)
            self._held.append(table)
            self._held_rows += table.num_rows
            self._held_bytes += table.nbytes
        return self._held_bytes * rows // self._held_rows

    def take(self, rows: int) -> list[pa.ChunkedArray]:
        """The columns of the next `rows` rows, which are held."""
        held = pa.concat_tables(self._held)
        rest = held.slice(rows)
        self._held, self._held_rows, self._held_bytes = [rest], rest.num_rows, rest.nbytes
        return held.slice(0, rows).columns

    def close(self) -> None:
        """Ends the thread."""
        self._tables.close()


def _read(reading: Reading, lane: int, names: list[str], types: list[pa.DataType]) -> Iterator[pa.Table]:
    """The lane's rows in its order, a segment of a row group at a time."""
    for task in tasks_of_epoch(reading, range(lane, lane + 1), 0, 0):
        table = read_row_group(reading.manifest, task.group, names)
        where = reading.manifest.describe(task.group)
        columns = [_cast(table[name], kind, name, where) for name, kind in zip(names, types, strict=True)]
        yield pa.table(columns, names=list(map(str, range(len(names))))).slice(task.start, task.stop - task.start)


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, where: str) -> pa.ChunkedArray:
    """The column in the type that its values of all files share; DataError where one does not fit."""
    try:
        return column if column.type == kind else column.cast(kind)
    except pa.ArrowException as error:
        raise DataError(
            f"{where}: column {name!r} does not fit into {kind}, as which all files share it ({one_line(error)}); "
            "write all files alike"
        ) from error


@contextmanager
def removed_after_errors(output: Output, files: list[LaneFile], world: World) -> Iterator[None]:
    """Removes what has been written after an exception. One that is told must be raised on all ranks."""
    try:
        yield
    except BaseException as error:
        for file in files:
            file.remove()
        if isinstance(error, EXPECTED_ERRORS):
            world.gather(None)  # all have removed their files
        if world.is_rank_zero:
            output.remove()
        raise
