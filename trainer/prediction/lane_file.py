"""The Parquet file that `adatt predict` writes for each lane.

A lane holds in memory one row group of the output, and three of the input for the columns that are copied.

Shapes: R rows, T tasks.
"""

from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.columns.numbers import Float32
from data.hashing import Int64
from data.reading import Reading
from trainer.prediction.copied_columns import CopiedColumns
from trainer.prediction.output_folder import OutputFolder

ROW_GROUP_ROWS = 1 << 17
ROW_GROUP_BYTES = 32 << 20
"""A row group of the output ends with the batch that reaches one of these (bytes of the copied columns in memory)."""


class LaneFile:
    """The file of one lane, which is created with its first row group."""

    def __init__(self, folder: OutputFolder, lane: int, schema: pa.Schema, reading: Reading, copied: list[str]) -> None:
        """`copied`: names of the input's columns that are the last ones of `schema`."""
        self.name = f"part-{lane:05}.parquet"
        self.num_rows = 0
        """Added so far."""
        self._folder = folder
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None

        num_predictions = len(schema) - 1 - len(copied)
        types = [field.type for field in schema][1 + num_predictions :]
        self._copied = CopiedColumns(reading, lane, copied, types) if copied else None

        # Rows are copied into fixed arrays at once, and no object is kept of each batch: between what the batches
        # allocate and free, such small things leave holes in the heap that no later batch fits in, a gigabyte of them.
        most_rows = ROW_GROUP_ROWS + reading.rows_per_lane
        self._row_ids_R = np.empty(most_rows, np.int64)
        self._predictions_TR = np.empty((num_predictions, most_rows), np.float32)
        self._held_rows = 0

    def add(self, row_ids_R: Int64, predictions_RT: Float32) -> None:
        """Adds rows; raises DataError if the file cannot be written or the columns to copy cannot be read."""
        if len(row_ids_R) == 0:
            return

        stop = self._held_rows + len(row_ids_R)
        self._row_ids_R[self._held_rows : stop] = row_ids_R
        self._predictions_TR[:, self._held_rows : stop] = predictions_RT.T
        self._held_rows = stop
        self.num_rows += len(row_ids_R)

        copied_bytes = self._copied.reach(self._held_rows) if self._copied else 0
        if self._held_rows >= ROW_GROUP_ROWS or copied_bytes >= ROW_GROUP_BYTES:
            self._write()

    def finish(self) -> None:
        """Completes the file; without rows there is none."""
        if self._held_rows:
            self._write()
        if self._writer:
            with self._folder.explained():
                self._writer.close()
        self.close()

    def close(self) -> None:
        """Stops reading the columns to copy."""
        if self._copied:
            self._copied.close()

    def remove(self) -> None:
        """Removes what has been written, as far as that is possible."""
        self.close()
        if self._writer:
            with suppress(OSError, pa.ArrowException):
                self._writer.close()
            # A writer that could not be closed would try again when it is garbage-collected.
            self._writer.is_open = False
            with suppress(OSError):
                self._folder.filesystem.delete_file(self._folder.path(self.name))

    def _write(self) -> None:
        """Writes the rows held as one row group."""
        row_ids_R = self._row_ids_R[: self._held_rows]
        predictions_TR = self._predictions_TR[:, : self._held_rows]
        columns = [pa.array(row_ids_R), *map(pa.array, predictions_TR)]

        if self._copied:
            columns += self._copied.take(self._held_rows)

        table = pa.table(columns, schema=self._schema)

        with self._folder.explained():
            if self._writer is None:
                self._writer = self._open()
            self._writer.write_table(table)

        self._held_rows = 0

    def _open(self) -> pq.ParquetWriter:
        path = self._folder.path(self.name)
        filesystem = self._folder.filesystem
        return pq.ParquetWriter(path, self._schema, filesystem=filesystem, compression="zstd", write_page_checksum=True)
