"""A rank's batches, from any sample on: the whole way from row groups to tensors, in four steps.

    1. tasks     which row-group segments this rank's lanes need, in the order in which they are first needed
    2. decode    a thread pool reads and decodes them ahead (Arrow releases the interpreter lock)
    3. assemble  every batch takes the next rows of each lane
    4. prefetch  a background thread keeps a few batches ready

The state of all this is one number: samples handed out globally. Memory holds one decoded segment per lane, as many
decoded ahead, and a few batches: it does not grow with the dataset, but with the size of its row groups.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from data.batch import Batch, Slice, assemble
from data.decode import Columns, Rows, decode
from data.errors import DataError
from data.manifest import Manifest, one_line
from data.order import OrderName, group_rows, order
from data.prefetch import Prefetcher
from data.settings import Settings


class DataConfig(Settings):
    """Which data, in what batches and order."""

    train: str
    """Parquet dataset to train on: a folder, or any URI that pyarrow.fs opens."""
    test: str
    """Parquet dataset to evaluate on; every row is used exactly once."""
    global_batch_size: int = Field(default=4096, gt=0, le=1 << 30)
    """Rows of one optimizer step over all ranks; a multiple of `lanes`."""
    lanes: int = Field(default=8, gt=0, le=1 << 16)
    """Streams that the order is cut into; the number of ranks must divide it. Part of the order: the same lanes give
    the same batches on any number of ranks. Each lane keeps about two row groups decoded in memory."""
    order: OrderName = "shuffled"
    """shuffled, chronological (inside time windows only), or stored."""
    repeat: bool = False
    """true: train.samples may exceed the rows of the data; each pass is a new permutation."""
    weight: str | None = None
    """Column of non-negative row weights; left out: every row weighs 1."""
    threads: int = Field(default=2, gt=0, le=256)
    """Decoding threads of each rank."""
    evaluation_batch_size: int | None = Field(default=None, gt=0, le=1 << 30)
    """Rows of one evaluation batch over all ranks; as in training where left out."""


@dataclass(frozen=True)
class Reading:
    """How a dataset is read: everything that fixes the content of each global batch."""

    manifest: Manifest
    columns: Columns
    global_batch_size: int
    lanes: int
    order: OrderName
    seed: int
    keep_last: bool = False
    """true: the rows that do not fill a last global batch come in one padded with rows of weight 0."""

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of one pass."""
        rows, size = self.manifest.num_rows, self.global_batch_size
        return -(-rows // size) if self.keep_last else rows // size

    @property
    def dropped_rows(self) -> int:
        """Rows of each pass that do not fill a last global batch."""
        return 0 if self.keep_last else self.manifest.num_rows % self.global_batch_size

    @property
    def rows_per_lane(self) -> int:
        """Rows that each lane gives to a global batch."""
        return self.global_batch_size // self.lanes


def stream(reading: Reading, lanes: range, samples: int, *, threads: int = 2, pin: bool = False) -> Prefetcher[Batch]:
    """Batches of the given lanes after `samples` global samples, pass after pass without end.

    An evaluation (`keep_last`) ends after one pass. Close the result to end its threads.
    """
    return Prefetcher(_batches(reading, lanes, samples // reading.global_batch_size, threads, pin), depth=4)


@dataclass(frozen=True)
class Task:
    """Rows start … stop of a row group's order in an epoch, needed by a lane at its row `needed`."""

    needed: int
    lane: int
    epoch: int
    group: int
    start: int
    stop: int


def tasks_of_epoch(reading: Reading, lanes: range, epoch: int, skip_batches: int) -> list[Task]:
    """Step 1: the segments that the lanes read in this pass after the first `skip_batches`, soonest needed first."""
    layout = order(
        reading.manifest.rows,
        reading.manifest.window,
        name=reading.order,
        seed=reading.seed,
        epoch=epoch,
        lanes=reading.lanes,
    )
    begin, end = skip_batches * reading.rows_per_lane, reading.batches_per_epoch * reading.rows_per_lane
    tasks = []
    for lane in lanes:
        part = slice(layout.lane_begin[lane], layout.lane_begin[lane + 1])
        group, start, stop = layout.group[part], layout.start[part], layout.stop[part]
        lane_stop = np.cumsum(stop - start)
        lane_start = lane_stop - (stop - start)
        start = start + np.clip(begin - lane_start, 0, None)
        stop = stop - np.clip(lane_stop - end, 0, None)
        for index in np.flatnonzero(start < stop):
            needed = max(int(lane_start[index]), begin)
            tasks.append(Task(needed, lane, epoch, int(group[index]), int(start[index]), int(stop[index])))
    return sorted(tasks, key=lambda task: (task.needed, task.lane))


def _tasks(reading: Reading, lanes: range, batch: int) -> Iterator[Task]:
    first_epoch, skip = divmod(batch, reading.batches_per_epoch)
    epochs = range(first_epoch, first_epoch + 1) if reading.keep_last else itertools.count(first_epoch)
    for epoch in epochs:
        yield from tasks_of_epoch(reading, lanes, epoch, skip if epoch == first_epoch else 0)


def read_row_group(manifest: Manifest, group: int, names: list[str]) -> pa.Table:
    """The columns `names` of a row group; DataError names its file where it cannot be read as the manifest says."""
    try:
        with manifest.filesystem.open_input_file(manifest.path(group)) as handle:
            parquet = pq.ParquetFile(handle, pre_buffer=True)
            table = parquet.read_row_group(int(manifest.group[group]), columns=names, use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{manifest.describe(group)}: cannot be read ({one_line(error)})") from error
    missing = sorted(set(names) - set(table.column_names))
    if missing:
        raise DataError(f"{manifest.describe(group)}: no column {missing[0]!r} any more; restore the file")
    if table.num_rows != manifest.rows[group]:
        raise DataError(
            f"{manifest.describe(group)}: has {table.num_rows} rows, but had {manifest.rows[group]} when the dataset "
            "was opened; restore the file, or start again on the changed data"
        )
    return table


def read_rows(reading: Reading, task: Task) -> Rows:
    """Step 2: reads and decodes one segment; DataError names the file of whatever is wrong with it."""
    manifest = reading.manifest
    table = read_row_group(manifest, task.group, reading.columns.names)
    num_rows = table.num_rows
    rows = group_rows(task.group, num_rows, name=reading.order, seed=reading.seed, epoch=task.epoch)
    if rows is None:
        chosen = np.arange(task.start, task.stop)
        table = table.slice(task.start, task.stop - task.start)
    else:
        chosen = rows[task.start : task.stop]
        table = table.combine_chunks().take(pa.array(chosen))
    return decode(table, reading.columns, lambda row: f"row {chosen[row]} of {manifest.describe(task.group)}")


class _Segments:
    """Decoded segments of every lane in reading order, and how far the front one of each is used up."""

    def __init__(self, reading: Reading, lanes: range, tasks: Iterator[Task], threads: int) -> None:
        self._reading = reading
        self._tasks = tasks
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._decoding: dict[int, deque[Future[Rows]]] = {lane: deque() for lane in lanes}
        self._used = dict.fromkeys(lanes, 0)
        self._ahead = 2 * len(lanes)  # one segment in use and one to come, for each lane

    def take(self, lane: int, rows: int) -> Iterator[Slice]:
        """The next `rows` rows of a lane as slices of segments; fewer where the lane ends."""
        waiting = self._decoding[lane]
        while rows and (waiting or self._submit_for(lane)):
            segment, used = waiting[0].result(), self._used[lane]
            stop = min(used + rows, len(segment))
            yield segment, used, stop
            rows -= stop - used
            self._used[lane] = stop
            if stop == len(segment):
                waiting.popleft()
                self._used[lane] = 0
                self._top_up()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _submit_for(self, lane: int) -> bool:
        """Submits tasks in order of need until one is the lane's; False where none is left."""
        return any(self._submit(task) == lane for task in self._tasks)

    def _top_up(self) -> None:
        missing = self._ahead - sum(map(len, self._decoding.values()))
        for task in itertools.islice(self._tasks, max(missing, 0)):
            self._submit(task)

    def _submit(self, task: Task) -> int:
        self._decoding[task.lane].append(self._pool.submit(read_rows, self._reading, task))
        return task.lane


def _batches(reading: Reading, lanes: range, batch: int, threads: int, pin: bool) -> Iterator[Batch]:
    segments = _Segments(reading, lanes, _tasks(reading, lanes, batch), threads)
    numbers = range(batch, reading.batches_per_epoch) if reading.keep_last else itertools.count(batch)
    try:
        for _ in numbers:
            slices = [list(segments.take(lane, reading.rows_per_lane)) for lane in lanes]
            result = assemble(reading.columns, slices, reading.rows_per_lane)
            yield result.pin_memory() if pin else result
    finally:
        segments.close()
