"""A rank's batches, from any sample on: the whole way from row groups to tensors, in four steps.

    1. tasks     which rows of which row groups this rank's lanes need, in the order in which they are first needed
    2. decode    a thread pool reads and decodes them ahead (Arrow releases the interpreter lock)   data/row_groups.py
    3. assemble  every batch takes the next rows of each lane                                       data/collate.py
    4. prefetch  a background thread keeps a few batches ready                                      data/prefetch.py

The state of all this is one number: samples handed out globally. Memory holds one decoded part of a row group per
lane, one more for each decoding thread, and a few batches: it does not grow with the dataset, but with the size of its
row groups.

What cannot be read is an error in step 2 or, with `on_bad_file = "skip"`, becomes as many padding rows, so that all
else stays in its place; `BatchStream.skipped` says which. Every row carries its number in the dataset from step 2 on;
with a trace, the numbers are written down when the batch is handed out.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data.batch import Batch
from data.collate import Slice, assemble, padding
from data.columns.decode import Rows
from data.discovery.footer import UnreadableError
from data.prefetch import Prefetcher
from data.reading import Reading
from data.row_groups import ReadTask, read_rows, tasks_of_epoch
from data.trace import TraceWriter

BATCHES_AHEAD = 4
"""Batches that are kept ready: they bridge the time that a row group of unusual size takes."""


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
    """A rank's batches, what could not be read of them, and a trace of those handed out if one is asked for."""

    def __init__(self, parts: "_DecodedParts", pin: bool, trace: TraceWriter | None) -> None:
        self.skipped = parts.skipped
        """What could not be read so far, in no order; the decoding is up to a few row groups ahead of the batches."""
        self.not_finite_D = parts.not_finite_D
        """Rows so far that hold NaN or ±inf in each dense feature, up to a row group a lane ahead of the batches."""
        self._trace = trace
        self._batch_size = parts.reading.global_batch_size
        self._samples = parts.first_batch * self._batch_size
        super().__init__(_batches(parts, pin), depth=BATCHES_AHEAD)

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
    first_batch = samples // reading.global_batch_size
    return BatchStream(_DecodedParts(reading, lanes, first_batch, threads), pin, trace)


def _tasks(reading: Reading, lanes: range, first_batch: int) -> Iterator[ReadTask]:
    """Step 1, pass after pass."""
    first_epoch, skip_batches = divmod(first_batch, reading.batches_per_epoch)
    yield from tasks_of_epoch(reading, lanes, first_epoch, skip_batches)
    if reading.keep_last:
        return

    for epoch in itertools.count(first_epoch + 1):
        yield from tasks_of_epoch(reading, lanes, epoch, skip_batches=0)


class _DecodedParts:
    """Decoded parts of every lane in reading order, and how far the front one of each is used up."""

    def __init__(self, reading: Reading, lanes: range, first_batch: int, threads: int) -> None:
        self.reading = reading
        self.first_batch = first_batch
        self.skipped: list[SkippedRows] = []
        self.not_finite_D = np.zeros(len(reading.columns.features.dense), np.int64)
        self._tasks = _tasks(reading, lanes, first_batch)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._decoding: dict[int, deque[Future[Rows]]] = {lane: deque() for lane in lanes}
        self._used = dict.fromkeys(lanes, 0)
        self._ahead = len(lanes) + threads  # one part in use for each lane, and one in the hands of each thread

    def take_batch(self) -> list[list[Slice]]:
        """Step 3: the next rows of each lane."""
        num_rows = self.reading.rows_per_lane
        return [list(self._take(lane, num_rows)) for lane in self._decoding]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _take(self, lane: int, num_rows: int) -> Iterator[Slice]:
        """The next `num_rows` rows of a lane as slices of parts; fewer where the lane ends."""
        waiting = self._decoding[lane]
        while num_rows and (waiting or self._submit_for(lane)):
            part = waiting[0].result()
            used = self._used[lane]
            stop = min(used + num_rows, len(part))
            if used == 0:
                self.not_finite_D += part.not_finite_D
            yield Slice(part, used, stop)

            num_rows -= stop - used
            self._used[lane] = stop
            if stop == len(part):
                waiting.popleft()
                self._used[lane] = 0
                self._top_up()

    def _submit_for(self, lane: int) -> bool:
        """Submits tasks in order of need until one is the lane's; False if none is left."""
        for task in self._tasks:
            self._submit(task)
            if task.lane == lane:
                return True
        return False

    def _top_up(self) -> None:
        """Keeps as many parts decoded or under way as may lie in memory."""
        num_parts = sum(map(len, self._decoding.values()))
        missing = max(self._ahead - num_parts, 0)
        for task in itertools.islice(self._tasks, missing):
            self._submit(task)

    def _submit(self, task: ReadTask) -> None:
        future = self._pool.submit(self._read, task)
        self._decoding[task.lane].append(future)

    def _read(self, task: ReadTask) -> Rows:
        """Step 2, in a thread of the pool."""
        try:
            return read_rows(self.reading, task)
        except UnreadableError as error:
            if self.reading.on_bad_file == "fail":
                raise
            self.skipped.append(self._skipped_rows(task, error.reason))
            return padding(self.reading.columns, task.stop - task.start)

    def _skipped_rows(self, task: ReadTask, reason: str) -> SkippedRows:
        manifest = self.reading.manifest
        file = manifest.files[manifest.file[task.group]]
        row_group = int(manifest.group[task.group])
        return SkippedRows(task.epoch, file, row_group, task.start, task.stop, reason)


def _batches(parts: _DecodedParts, pin: bool) -> Iterator[Batch]:
    """Steps 3 and 4: what the prefetcher's thread runs."""
    reading = parts.reading
    batches = range(parts.first_batch, reading.batches_per_epoch) if reading.keep_last else itertools.count()

    try:
        for _ in batches:
            batch = assemble(reading.columns, parts.take_batch(), reading.rows_per_lane)
            yield batch.pin_memory() if pin else batch
    finally:
        parts.close()
