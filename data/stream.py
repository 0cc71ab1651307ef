"""A rank's batches, from any sample on: the whole way from row groups to tensors, in four steps.

    1. tasks     which row-group segments this rank's lanes need, in the order in which they are first needed
    2. decode    a thread pool reads and decodes them ahead (Arrow releases the interpreter lock)
    3. assemble  every batch takes the next rows of each lane
    4. prefetch  a background thread keeps a few batches ready

The state of all this is one number: samples handed out globally. Memory holds one decoded segment per lane, one more
for each decoding thread, and a few batches: it does not grow with the dataset, but with the size of its row groups.

What cannot be read is an error in step 2 or, where `on_bad_file = "skip"`, becomes as many padding rows, so that all
else stays in its place; `BatchStream.skipped` tells which. Every row carries its number in the dataset from step 2 on;
with a trace, the numbers are written down when the batch is handed out.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from data.batch import Batch, Slice, assemble, padding
from data.columns.decode import Columns, Rows, decode
from data.columns.kinds import as_readable
from data.discovery.footer import DAMAGE, UnreadableError, one_line, types_named
from data.manifest import Manifest, OnBadFile
from data.order import OrderName, group_rows, order
from data.prefetch import Prefetcher
from data.settings import Settings
from data.trace import TraceWriter


class DataConfig(Settings):
    """Which data, in what batches and order."""

    train: str
    """Parquet dataset to train on: a folder, or any URI that pyarrow.fs opens."""
    test: str
    """Parquet dataset to evaluate on; every row is used exactly once."""
    global_batch_size: int = Field(default=512, gt=0, le=1 << 30)
    """Rows of one optimizer step over all ranks; a multiple of `lanes`. The default suits logs of up to some millions
    of rows, which need many steps; a large cluster wants thousands, with learning rates tuned for them."""
    lanes: int = Field(default=8, gt=0, le=1 << 16)
    """Streams that the order is cut into; the number of ranks must divide it. Part of the order: the same lanes give
    the same batches on any number of ranks. Each lane keeps a decoded row group in memory, each thread one more."""
    order: OrderName = "shuffled"
    """shuffled, chronological (inside time windows only), or stored."""
    repeat: bool = False
    """true: train.samples may exceed the rows of the data; each pass is a new permutation. May be set for a finished
    run, to train further passes."""
    weight: str | None = None
    """Column of non-negative row weights; left out: every row weighs 1."""
    threads: int = Field(default=2, gt=0, le=256)
    """Decoding threads of each rank."""
    evaluation_batch_size: int | None = Field(default=None, gt=0, le=1 << 30)
    """Rows of one evaluation batch over all ranks; as in training where left out."""
    on_bad_file: OnBadFile = "fail"
    """fail: a training file that is truncated, corrupt or gone ends the run. skip: one that is unreadable at the start
    is left out of the dataset, and a row group found unreadable later is replaced by rows of weight 0. Evaluation
    always fails: a metric on part of the test set is another metric."""
    bad_row_groups: int = Field(default=10, ge=0)
    """Row groups that may be unreadable before the run stops, over all ranks and the whole start; with
    `on_bad_file = "skip"`."""


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
    on_bad_file: OnBadFile = "fail"
    """skip: a row group that cannot be read comes as rows of weight 0."""

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


@dataclass(frozen=True)
class SkippedRows:
    """Rows that came as padding, since their row group could not be read."""

    epoch: int
    file: str
    """Path below the dataset's root."""
    row_group: int
    """Index inside its file."""
    start: int
    """First of the rows, in the group's own order (`data.order.group_rows`)."""
    stop: int
    reason: str


class BatchStream(Prefetcher[Batch]):
    """A rank's batches, what could not be read of them, and a trace of those handed out where one is asked for."""

    def __init__(self, segments: "_Segments", pin: bool, trace: TraceWriter | None) -> None:
        self.skipped = segments.skipped
        """What could not be read so far, in no order; the decoding is up to a few row groups ahead of the batches."""
        self.not_finite_D = segments.not_finite_D
        """Rows so far that hold NaN or ±inf in each dense feature, up to a row group a lane ahead of the batches."""
        self._trace = trace
        self._samples = segments.first_batch * segments.reading.global_batch_size
        self._batch_size = segments.reading.global_batch_size
        super().__init__(_batches(segments, pin), depth=4)

    def __next__(self) -> Batch:
        batch = super().__next__()
        if self._trace:
            row_ids_B = batch.row_ids_B.numpy()
            self._trace.write(self._samples, row_ids_B[row_ids_B >= 0])
            self._samples += self._batch_size
        return batch

    def close(self) -> None:
        """Ends the threads and the trace; batches not yet taken are lost."""
        super().close()
        if self._trace:
            self._trace.close()


def stream(
    reading: Reading,
    lanes: range,
    samples: int,
    *,
    threads: int = 2,
    pin: bool = False,
    trace: TraceWriter | None = None,
) -> BatchStream:
    """Batches of the given lanes after `samples` global samples, pass after pass without end.

    An evaluation (`keep_last`) ends after one pass. `trace` records the rows of each batch (`data.trace`), and is
    closed with the result. Close the result to end its threads.
    """
    batch = samples // reading.global_batch_size
    return BatchStream(_Segments(reading, lanes, batch, threads), pin, trace)


def describe_batch(reading: Reading, samples: int) -> list[str]:
    """The row groups that the global batch beginning at `samples` takes rows from, by path; for messages."""
    epoch, number = divmod(samples // reading.global_batch_size, reading.batches_per_epoch)
    end = (number + 1) * reading.rows_per_lane
    tasks = tasks_of_epoch(reading, range(reading.lanes), epoch, number)
    return [reading.manifest.describe(group) for group in sorted({task.group for task in tasks if task.needed < end})]


@dataclass(frozen=True)
class ReadTask:
    """Rows start … stop of a row group's order in an epoch, needed by a lane at its row `needed`."""

    needed: int
    lane: int
    epoch: int
    group: int
    start: int
    stop: int


def tasks_of_epoch(reading: Reading, lanes: range, epoch: int, skip_batches: int) -> list[ReadTask]:
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
            tasks.append(ReadTask(needed, lane, epoch, int(group[index]), int(start[index]), int(stop[index])))
    return sorted(tasks, key=lambda task: (task.needed, task.lane))


def _tasks(reading: Reading, lanes: range, batch: int) -> Iterator[ReadTask]:
    first_epoch, skip = divmod(batch, reading.batches_per_epoch)
    epochs = range(first_epoch, first_epoch + 1) if reading.keep_last else itertools.count(first_epoch)
    for epoch in epochs:
        yield from tasks_of_epoch(reading, lanes, epoch, skip if epoch == first_epoch else 0)


def read_row_group(manifest: Manifest, group: int, names: list[str]) -> pa.Table:
    """The columns `names` of a row group; UnreadableError names its file where it is not as the manifest says."""
    with (
        damage_named(manifest, group),
        manifest.filesystem.open_input_file(manifest.path(group)) as handle,
    ):
        parquet = pq.ParquetFile(handle, pre_buffer=True, page_checksum_verification=True)
        table = parquet.read_row_group(int(manifest.group[group]), columns=names, use_threads=False)
        stored, table = table.schema, as_readable(table)
    for name in names:
        found, known = types_named(stored, name), [types_named(schema, name) for _, schema in manifest.schemas]
        if found not in known:
            now, before = (", ".join(map(str, types)) or "missing" for types in (found, known[0]))
            raise _changed(manifest, group, f"column {name!r} is {now}, but was {before}")
    if table.num_rows != manifest.rows[group]:
        raise _changed(manifest, group, f"has {table.num_rows} rows, but had {manifest.rows[group]}")
    return table


def read_rows(reading: Reading, task: ReadTask) -> Rows:
    """Step 2: reads and decodes one segment; DataError names the file of whatever is wrong with it."""
    manifest = reading.manifest
    table = read_row_group(manifest, task.group, reading.columns.names)
    rows = group_rows(task.group, table.num_rows, name=reading.order, seed=reading.seed, epoch=task.epoch)
    chosen = np.arange(task.start, task.stop) if rows is None else rows[task.start : task.stop]
    with damage_named(manifest, task.group):  # bytes that are no UTF-8 come to light only here
        if rows is None:
            table = table.slice(task.start, task.stop - task.start)
        else:
            table = table.combine_chunks().take(pa.array(chosen))
        decoded = decode(table, reading.columns, lambda row: f"row {chosen[row]} of {manifest.describe(task.group)}")
    return replace(decoded, row_ids_R=manifest.first_row[task.group] + chosen)


@contextmanager
def damage_named(manifest: Manifest, group: int) -> Iterator[None]:
    """Context in which damage of a row group becomes an UnreadableError that names it."""
    try:
        yield
    except DAMAGE as error:
        reason = f"cannot be read ({one_line(error)})"
        raise UnreadableError(manifest.describe(group), reason, "restore the file") from error


def _changed(manifest: Manifest, group: int, what: str) -> UnreadableError:
    advice = "restore the file, or start again on the changed data"
    return UnreadableError(manifest.describe(group), f"{what} when the dataset was opened", advice)


class _Segments:
    """Decoded segments of every lane in reading order, and how far the front one of each is used up."""

    def __init__(self, reading: Reading, lanes: range, first_batch: int, threads: int) -> None:
        self.reading = reading
        self.first_batch = first_batch
        self.skipped: list[SkippedRows] = []
        self.not_finite_D = np.zeros(len(reading.columns.features.dense), np.int64)
        self._tasks = _tasks(reading, lanes, first_batch)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._decoding: dict[int, deque[Future[Rows]]] = {lane: deque() for lane in lanes}
        self._used = dict.fromkeys(lanes, 0)
        self._ahead = len(lanes) + threads  # one segment in use for each lane, and one in the hands of each thread

    def take_batch(self) -> list[list[Slice]]:
        """Step 3: the next rows of each lane."""
        return [list(self._take(lane, self.reading.rows_per_lane)) for lane in self._decoding]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _take(self, lane: int, rows: int) -> Iterator[Slice]:
        """The next `rows` rows of a lane as slices of segments; fewer where the lane ends."""
        waiting = self._decoding[lane]
        while rows and (waiting or self._submit_for(lane)):
            segment, used = waiting[0].result(), self._used[lane]
            stop = min(used + rows, len(segment))
            if used == 0:
                self.not_finite_D += segment.not_finite_D
            yield segment, used, stop
            rows -= stop - used
            self._used[lane] = stop
            if stop == len(segment):
                waiting.popleft()
                self._used[lane] = 0
                self._top_up()

    def _submit_for(self, lane: int) -> bool:
        """Submits tasks in order of need until one is the lane's; False where none is left."""
        return any(self._submit(task) == lane for task in self._tasks)

    def _top_up(self) -> None:
        missing = self._ahead - sum(map(len, self._decoding.values()))
        for task in itertools.islice(self._tasks, max(missing, 0)):
            self._submit(task)

    def _submit(self, task: ReadTask) -> int:
        self._decoding[task.lane].append(self._pool.submit(self._read, task))
        return task.lane

    def _read(self, task: ReadTask) -> Rows:
        try:
            return read_rows(self.reading, task)
        except UnreadableError as error:
            if self.reading.on_bad_file == "fail":
                raise
            manifest = self.reading.manifest
            file, row_group = manifest.files[manifest.file[task.group]], int(manifest.group[task.group])
            self.skipped.append(SkippedRows(task.epoch, file, row_group, task.start, task.stop, error.reason))
            return padding(self.reading.columns, task.stop - task.start)


def _batches(segments: _Segments, pin: bool) -> Iterator[Batch]:
    reading = segments.reading
    batches = range(segments.first_batch, reading.batches_per_epoch) if reading.keep_last else itertools.count()
    try:
        for _ in batches:
            batch = assemble(reading.columns, segments.take_batch(), reading.rows_per_lane)
            yield batch.pin_memory() if pin else batch
    finally:
        segments.close()
