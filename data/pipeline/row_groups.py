"""Steps 1 and 2 of `data.stream`: which rows of which row groups the lanes need, and how they are read and decoded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from data.columns.bad_values import BadValueError
from data.columns.decode import Rows, decode, decode_good
from data.discovery.fields import types_named
from data.discovery.footer import DAMAGE, UnreadableError
from data.errors import DataError, one_line
from data.manifest import Manifest
from data.order import block_of, block_order, order
from data.pipeline.file_columns import complete, names_to_read
from data.pipeline.old_times import check_old_times
from data.pipeline.open_files import OpenFiles
from data.reading import Reading
from data.storage.retries import retried


@dataclass(frozen=True)
class ReadTask:
    """Rows start … stop - 1 of a row group's order in an epoch, which a lane needs at its row `needed`.

    They lie in one block of the row group: its rows as stored, which are decoded together.
    """

    needed: int
    lane: int
    epoch: int
    group: int
    start: int
    stop: int
    block: range
    is_whole: bool
    """Whether the block is all of the row group."""


def tasks_of_epoch(reading: Reading, lanes: range, epoch: int, skip_batches: int) -> list[ReadTask]:
    """Step 1: what the lanes read in this pass after the first `skip_batches`, soonest needed first."""
    layout = order(
        reading.manifest.rows,
        reading.manifest.window,
        name=reading.order,
        seed=reading.seed,
        epoch=epoch,
        lanes=reading.lanes,
    )
    begin = skip_batches * reading.rows_per_lane
    end = reading.batches_per_epoch * reading.rows_per_lane

    tasks: list[ReadTask] = []
    for lane in lanes:
        of_lane = slice(layout.lane_begin[lane], layout.lane_begin[lane + 1])
        group = layout.group[of_lane]
        start = layout.start[of_lane]
        stop = layout.stop[of_lane]

        # The lane's segments lie end to end. Those that reach below `begin` or beyond `end` are cut there.
        lane_stop = np.cumsum(stop - start)
        lane_start = lane_stop - (stop - start)
        start = start + np.clip(begin - lane_start, 0, None)
        stop = stop - np.clip(lane_stop - end, 0, None)

        for index in np.flatnonzero(start < stop):
            needed = max(int(lane_start[index]), begin)
            segment = range(int(start[index]), int(stop[index]))
            tasks += _block_tasks(reading, needed, lane, epoch, int(group[index]), segment)

    return sorted(tasks, key=lambda task: (task.needed, task.lane))


def _block_tasks(
    reading: Reading, needed: int, lane: int, epoch: int, group: int, segment: range
) -> Iterator[ReadTask]:
    """The rows of a segment, cut where blocks end."""
    num_rows = int(reading.manifest.rows[group])
    start = segment.start
    while start < segment.stop:
        block = block_of(start, num_rows, reading.block_rows)
        stop = min(block.stop, segment.stop)
        lane_row = needed + start - segment.start
        yield ReadTask(lane_row, lane, epoch, group, start, stop, block, len(block) == num_rows)
        start = stop


def rows_of_group(manifest: Manifest, group: int, begin: int, most: int) -> ReadTask:
    """Up to `most` stored rows of a group from `begin` on, as a block of their own, apart from lanes and epochs."""
    num_rows = int(manifest.rows[group])
    block = range(begin, min(begin + most, num_rows))
    return ReadTask(0, 0, 0, group, block.start, block.stop, block, is_whole=len(block) == num_rows)


def describe_batch(reading: Reading, samples: int) -> list[str]:
    """The row groups that the global batch beginning at `samples` takes rows from, by path; for messages."""
    epoch, index = divmod(samples // reading.global_batch_size, reading.batches_per_epoch)
    end = (index + 1) * reading.rows_per_lane

    tasks = tasks_of_epoch(reading, range(reading.lanes), epoch, skip_batches=index)
    groups = {task.group for task in tasks if task.needed < end}
    return [reading.manifest.describe(group) for group in sorted(groups)]


def decode_rows(reading: Reading, task: ReadTask, table: pa.Table) -> Rows:
    """Step 2: the rows of a task, in its order, from the table of its block.

    Raises DataError that names the row where something is wrong. Rows with bad values are left out where they are to be
    skipped, in `Rows.bad` as the row group counts them.
    """
    manifest = reading.manifest
    block = task.block
    num_rows = int(manifest.rows[task.group])
    shuffled = block_order(task.group, block, num_rows, name=reading.order, seed=reading.seed, epoch=task.epoch)
    wanted = slice(task.start - block.start, task.stop - block.start)
    if shuffled is None:
        first = task.start
        table = table.slice(wanted.start, task.stop - task.start)
        chosen = np.arange(table.num_rows)
    else:
        first = block.start
        chosen = shuffled[wanted]

    def where(row: int) -> str:
        return f"row {first + row} of {manifest.describe(task.group)}"

    # Bytes that are no UTF-8 come to light only here, while values are used.
    with damage_named(manifest, task.group):
        try:
            rows = decode(table, reading.columns, where, chosen)
        except BadValueError as error:
            if reading.on_bad_value != "skip":
                raise with_way_out(reading, error) from error
            rows = decode_good(table, reading.columns, where, chosen)
            chosen = np.delete(chosen, rows.bad_places)

    bad = tuple(replace(entry, rows=first + entry.rows) for entry in rows.bad)
    return replace(rows, row_ids_R=manifest.first_row[task.group] + first + chosen, bad=bad)


def with_way_out(reading: Reading, error: BadValueError) -> DataError:
    """The error with what the user can do at once, without new data."""
    if reading.on_bad_value is None:
        return error
    return DataError(f"{error}; or start again with --set data.on_bad_value=skip, which gives such rows weight 0")


def read_row_group(manifest: Manifest, group: int, names: list[str], files: OpenFiles | None = None) -> pa.Table:
    """The columns `names` of a row group; raises UnreadableError if it is not what the manifest says.

    `files`: left open for the next row group; without them the file is opened for this one alone.
    """
    files = files or OpenFiles(manifest)

    def read() -> pa.Table:
        with files.lend(group) as parquet:
            index = int(manifest.group[group])
            asked = names_to_read(manifest, group, names, parquet)
            stored = parquet.read_row_group(index, columns=asked, use_threads=False)
            check_old_times(manifest, group, asked, parquet)
            return stored

    with damage_named(manifest, group):
        stored = retried(manifest.filesystem, read)
        table = complete(manifest, group, names, stored)

    check_unchanged(manifest, group, names, stored.schema, stored.num_rows)
    return table


def check_unchanged(manifest: Manifest, group: int, names: list[str], schema: pa.Schema, num_rows: int) -> None:
    """Raises UnreadableError if a row group has other rows or types than when the dataset was opened."""
    for name in names:
        _check_types(manifest, group, name, schema)
    if num_rows != manifest.rows[group]:
        raise _changed(manifest, group, f"has {num_rows} rows, but had {manifest.rows[group]}")


def _check_types(manifest: Manifest, group: int, name: str, schema: pa.Schema) -> None:
    """Raises UnreadableError if the column `name` is stored as in no file when the dataset was opened."""
    now = types_named(schema, name)
    before = [types_named(known, name) for _, known in manifest.schemas]
    if now not in before:
        texts = (", ".join(map(str, types)) or "missing" for types in (now, before[0]))
        raise _changed(manifest, group, "column {!r} is {}, but was {}".format(name, *texts))


def _changed(manifest: Manifest, group: int, what: str) -> UnreadableError:
    advice = "restore the file, or start again on the changed data"
    return UnreadableError(manifest.describe(group), f"{what} when the dataset was opened", advice)


@contextmanager
def damage_named(manifest: Manifest, group: int) -> Iterator[None]:
    """Context in which damage of a row group becomes an UnreadableError that names it."""
    try:
        yield
    except DAMAGE as error:
        reason = f"cannot be read ({one_line(error)})"
        raise UnreadableError(manifest.describe(group), reason, "restore the file") from error
