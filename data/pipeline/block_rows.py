"""How many rows of a row group are decoded together: what the memory has room for, whatever the files are like."""

import math
from contextlib import closing

import numpy as np

from data.columns.decode import Rows
from data.discovery.footer import UnreadableError
from data.errors import DataError
from data.pipeline.blocks import BlockReader
from data.pipeline.row_groups import decode_rows, rows_of_group
from data.reading import Reading

MOST_ROWS = 1 << 15
"""More would not fit the processor's cache, column by column."""
FEWEST_ROWS = 1 << 10
"""Fewer would take more time for the calls than for the rows."""
_SAMPLE_ROWS = 1 << 12
_COLUMN_BYTES = 1 << 20
"""Of an open row group, for each column: a page and a dictionary, of up to 1 MB each as writers make them."""
PARTS_PER_LANE = 2
"""One from which batches are gathered, and one that is read meanwhile."""


def measure_block_rows(reading: Reading, memory: int, lanes_per_rank: int) -> int:
    """Rows of a block, of which `memory` bytes hold two for each lane of the dataset.

    The same for every number of ranks, since it is a part of the order; raises DataError if they do not fit on a rank.
    """
    row_bytes = _row_bytes(reading)
    largest = int(reading.manifest.rows.max())
    blocks_bytes = memory / 2  # the other half: open row groups, and batches
    block_rows = int(blocks_bytes / max(PARTS_PER_LANE * reading.lanes * row_bytes, 1))
    block_rows = max(min(block_rows, MOST_ROWS), FEWEST_ROWS)

    open_bytes = len(reading.columns.names) * _COLUMN_BYTES if largest > block_rows else 0
    needed = lanes_per_rank * (open_bytes + PARTS_PER_LANE * min(block_rows, largest) * row_bytes)
    if needed > memory:
        megabytes = math.ceil(needed / 10**6)
        raise DataError(
            f"data.memory = {memory:,} bytes are too few: {lanes_per_rank} lanes on a rank need about {megabytes:,} MB "
            f"for blocks of {block_rows:,} rows; raise it, lower data.lanes, or use more ranks"
        )
    return block_rows


def _row_bytes(reading: Reading) -> float:
    """Bytes of a row, as Arrow holds it and decoded, where rows are largest; they differ little inside a dataset."""
    manifest = reading.manifest
    by_size = np.argsort(-manifest.bytes / np.maximum(manifest.rows, 1), kind="stable")
    with closing(BlockReader(manifest, reading.columns.names)) as blocks:
        for group in by_size[manifest.rows[by_size] > 0].tolist():
            task = rows_of_group(manifest, group, 0, _SAMPLE_ROWS)
            try:
                table = blocks.read(task)
                rows = decode_rows(reading, task, table)
            except UnreadableError:
                if reading.on_bad_file == "fail":
                    raise
            else:
                if not len(rows):
                    continue  # all of them hold bad values
                return (table.get_total_buffer_size() + _nbytes(rows)) / len(rows)

    return 0.0


def _nbytes(rows: Rows) -> int:
    of_ids = sum(array.nbytes for entry in rows.ids for array in entry if array is not None)
    return of_ids + sum(array.nbytes for array in (rows.dense_RD, rows.labels_RT, rows.weights_R, rows.row_ids_R))
