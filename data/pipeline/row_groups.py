"""Steps 1 and 2 of `data.stream`: which rows of which row groups the lanes need, and how they are read and decoded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from data.columns.decode import Rows, decode
from data.columns.kinds import as_readable
from data.discovery.footer import DAMAGE, UnreadableError, types_named
from data.errors import one_line
from data.manifest import Manifest
from data.order import group_rows, order
from data.pipeline.open_files import OpenFiles
from data.reading import Reading


@dataclass(frozen=True)
class ReadTask:
    """Rows start … stop - 1 of a row group's order in an epoch, which a lane needs at its row `needed`."""

    needed: int
    lane: int
    epoch: int
    group: int
    start: int
    stop: int


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

    tasks = []
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
            first = int(start[index])
            last = int(stop[index])
            tasks.append(ReadTask(needed, lane, epoch, int(group[index]), first, last))

    return sorted(tasks, key=lambda task: (task.needed, task.lane))


def describe_batch(reading: Reading, samples: int) -> list[str]:
    """The row groups that the global batch beginning at `samples` takes rows from, by path; for messages."""
    epoch, index = divmod(samples // reading.global_batch_size, reading.batches_per_epoch)
    end = (index + 1) * reading.rows_per_lane

    tasks = tasks_of_epoch(reading, range(reading.lanes), epoch, skip_batches=index)
    groups = {task.group for task in tasks if task.needed < end}
    return [reading.manifest.describe(group) for group in sorted(groups)]


def read_rows(reading: Reading, task: ReadTask) -> Rows:
    """Step 2: reads and decodes the rows of a task; raises DataError with the file's name if something is wrong."""
    return decode_rows(reading, task, read_row_group(reading.manifest, task.group, reading.columns.names))


def decode_rows(reading: Reading, task: ReadTask, table: pa.Table) -> Rows:
    """The rows of a task, in its order, from the table of its row group; errors as those of `read_rows`."""
    manifest = reading.manifest
    shuffled = group_rows(task.group, table.num_rows, name=reading.order, seed=reading.seed, epoch=task.epoch)
    first = 0

    if shuffled is None:
        first = task.start
        table = table.slice(first, task.stop - first)
        stored = np.arange(first, task.stop)
        chosen = None
    else:
        stored = chosen = shuffled[task.start : task.stop]

    def where(row: int) -> str:
        return f"row {first + row} of {manifest.describe(task.group)}"

    # Bytes that are no UTF-8 come to light only here, while values are used.
    with damage_named(manifest, task.group):
        rows = decode(table, reading.columns, where, chosen)

    return replace(rows, row_ids_R=manifest.first_row[task.group] + stored)


def read_row_group(manifest: Manifest, group: int, names: list[str], files: OpenFiles | None = None) -> pa.Table:
    """The columns `names` of a row group; raises UnreadableError if it is not what the manifest says.

    `files`: left open for the next row group; without them the file is opened for this one alone.
    """
    files = files or OpenFiles(manifest)
    with damage_named(manifest, group), files.lend(group) as parquet:
        index = int(manifest.group[group])
        stored = parquet.read_row_group(index, columns=names, use_threads=False)
        table = as_readable(stored)

    for name in names:
        _check_types(manifest, group, name, stored.schema)

    if table.num_rows != manifest.rows[group]:
        raise _changed(manifest, group, f"has {table.num_rows} rows, but had {manifest.rows[group]}")

    return table


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
