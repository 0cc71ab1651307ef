"""Threads that decode parts and gather batches: whoever is free takes what is needed most."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import pyarrow as pa

from data.batch import Batch
from data.columns.decode import Rows
from data.discovery.footer import UnreadableError
from data.pipeline.account import Account
from data.pipeline.blocks import BlockReader
from data.pipeline.collate import PADDING, Span, assemble, without_bad_rows
from data.pipeline.plan import Gathering, Plan, Wanted
from data.pipeline.row_groups import ReadTask, decode_rows
from data.reading import Reading

GATHERINGS_AHEAD = 4
"""Batches that are kept ready bridge the time that a row group of unusual size takes."""
_GATHERED_BYTES = 8 << 20
"""About so many are gathered by one call, which costs a hand-over between threads; one batch of any size at least."""
_FEWEST_AHEAD = 2
"""Gatherings, if a batch alone is larger than `_GATHERED_BYTES`: one in use, one that is made meanwhile."""
_MOST_GATHERED = 64
"""Batches, however small."""


@dataclass
class ReadingTimes:
    """Seconds so far, of all reader threads together but for `wait`."""

    read: float = 0.0
    """Files → Arrow tables."""
    decode: float = 0.0
    """Arrow tables → checked and permuted arrays."""
    gather: float = 0.0
    """Arrays → batches."""
    room: float = 0.0
    """Waiting, since enough is decoded and enough batches are ready: what the threads have to spare."""
    wait: float = 0.0
    """Of the consumer, for batches that were not ready."""

    def since(self, before: "ReadingTimes") -> "ReadingTimes":
        """What has been added to an earlier state."""
        return ReadingTimes(**{key: value - getattr(before, key) for key, value in asdict(self).items()})


class Readers:
    """The threads, and the batches that are ready, in order."""

    def __init__(self, reading: Reading, lanes: range, first_batch: int, threads: int, pin: bool) -> None:
        self.account = Account(reading)
        self.times = ReadingTimes()
        self._reading = reading
        self._pin = pin
        self._blocks = BlockReader(reading.manifest, reading.columns.names)
        self._busy_lanes: set[int] = set()
        """Whose row group is being read, of which the next block comes after."""
        self._plan = Plan(reading, lanes, first_batch)
        self._most_parts = len(lanes) + threads  # one part in use for each lane, and one in the hands of each thread
        self._num_parts = 0
        """Read or being read, and not used up."""
        self._ahead: deque[Gathering] = deque()
        """Gatherings in order: done, under way, or waiting for their parts."""
        self._batch_bytes = _GATHERED_BYTES
        """Of one batch of this rank: before the first is there, as if it were large."""
        self._is_planned = False
        self._ended: BaseException | None = None
        self._is_closing = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"reader-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def take(self) -> list[Batch]:
        """The next batches, one at least; raises StopIteration at the end, and an error where it stands."""
        with self._changed:
            while self._ended is None and not (self._ahead and self._ahead[0].is_done):
                if self._is_planned and not self._ahead:
                    self._ended = StopIteration()
                    break
                self._changed.wait()
            if self._ended is not None:
                raise self._ended

            first = self._ahead.popleft()
            if first.error is not None:
                self._ended = first.error
            self._changed.notify_all()
        if not first.batches:
            return self.take()
        return first.batches

    def close(self) -> None:
        """Ends the threads."""
        with self._changed:
            self._is_closing = True
            self._ended = self._ended or StopIteration()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._ahead.clear()
        self._blocks.close()

    def _work(self) -> None:
        """What each thread does."""
        try:
            while job := self._wait_for_job():
                job()
        except BaseException as error:  # handed to the consumer, which would wait for ever
            with self._changed:
                self._ended = self._ended or _as_error(error)
                self._changed.notify_all()

    def _wait_for_job(self) -> Callable[[], None] | None:
        begin = time.perf_counter()
        with self._changed:
            while not self._is_closing:
                job = self._next_job()
                if job is not None:
                    self.times.room += time.perf_counter() - begin
                    return job
                self._changed.wait()
        return None

    def _next_job(self) -> Callable[[], None] | None:
        """What is needed most: batches whose parts are there, parts of batches, then parts that will be needed."""
        if self._ended is not None:
            return None

        self._plan_batches()
        for gathering in self._ahead:
            if not gathering.is_begun and gathering.is_ready:
                gathering.is_begun = True
                return lambda: self._gather(gathering)

        if self._plan.to_read or self._num_parts < self._most_parts:
            part = self._plan.next_part(self._busy_lanes)
            if part is not None:
                self._num_parts += 1
                if not part.task.is_whole:
                    self._busy_lanes.add(part.task.lane)
                return lambda: self._read(part)

        return None

    def _plan_batches(self) -> None:
        """Plans what is gathered next, where there is room for it."""
        waits = self._ahead and not self._ahead[-1].is_begun
        most_ahead = GATHERINGS_AHEAD if self._batch_bytes <= _GATHERED_BYTES else _FEWEST_AHEAD
        if self._is_planned or waits or len(self._ahead) >= most_ahead:
            return

        most_batches = min(max(_GATHERED_BYTES // self._batch_bytes, 1), _MOST_GATHERED)
        gathering = self._plan.next_gathering(most_batches)
        if gathering is None:
            self._is_planned = True
            self._changed.notify_all()
        else:
            self._ahead.append(gathering)

    def _read(self, part: Wanted) -> None:
        """Step 2."""
        try:
            part.rows = self._decode(part.task)
            if part.rows is not None:
                self.account.add(part.task, part.rows)
        except BaseException as error:  # handed to the consumer, whatever it is
            part.error = _as_error(error)
        with self._changed:
            part.is_done = True
            self._changed.notify_all()

    def _decode(self, task: ReadTask) -> Rows | None:
        """None if it cannot be read, and is skipped."""
        try:
            begin = time.perf_counter()
            table = self._read_block(task)
            is_read = time.perf_counter()
            rows = decode_rows(self._reading, task, table)
            is_decoded = time.perf_counter()
        except UnreadableError as error:
            if self._reading.on_bad_file == "fail":
                raise
            self.account.skip(task, error.reason)
            return None

        with self._changed:
            self.times.read += is_read - begin
            self.times.decode += is_decoded - is_read
        return rows

    def _read_block(self, task: ReadTask) -> pa.Table:
        try:
            return self._blocks.read(task)
        finally:
            if not task.is_whole:
                with self._changed:
                    self._busy_lanes.discard(task.lane)
                    self._changed.notify_all()

    def _gather(self, gathering: Gathering) -> None:
        """Step 3."""
        begin = time.perf_counter()
        try:
            gathering.batches, gathering.error = _batches(self._reading, gathering, self._pin)
        except BaseException as error:  # handed to the consumer, whatever it is
            gathering.error = _as_error(error)
        gathering.parts.clear()  # or their rows would lie in memory until the batches are taken

        with self._changed:
            if gathering.batches:
                self._batch_bytes = _bytes_of(gathering.batches[0])
            gathering.is_done = True
            self._num_parts -= gathering.used_up
            self.times.gather += time.perf_counter() - begin
            self._changed.notify_all()


def _batches(reading: Reading, gathering: Gathering, pin: bool) -> tuple[list[Batch], BaseException | None]:
    """The batches, up to the first that needs a part which could not be read, and its error."""
    parts: list[Rows] = []
    spans: list[Span] = []
    lane = -1
    place = 0
    failed: list[tuple[int, BaseException]] = []

    for span in gathering.spans:
        place = place if span.lane == lane else 0
        lane = span.lane
        wanted = gathering.parts[span.part] if span.part != PADDING else None
        if wanted is not None and wanted.error is not None:
            failed.append((place // reading.rows_per_lane, wanted.error))
        place += span.num_rows
        if wanted is None or wanted.rows is None:
            spans.append(span._replace(part=PADDING))
        else:
            spans += without_bad_rows(span._replace(part=len(parts)), wanted.rows.bad_places)
            parts.append(wanted.rows)

    batches = assemble(reading.columns, parts, spans, reading.rows_per_lane, pin=pin)
    if not failed:
        return batches, None
    first, error = min(failed, key=lambda entry: entry[0])
    return batches[:first], error


def _as_error(error: BaseException) -> BaseException:
    """The error, but an end of iteration in another form: the consumer would take it for the end of the data."""
    if not isinstance(error, StopIteration):
        return error
    fault = RuntimeError("an iteration ended inside a reader thread")
    fault.__cause__ = error
    return fault


def _bytes_of(batch: Batch) -> int:
    sparse, *tensors = (getattr(batch, entry.name) for entry in fields(batch))
    tensors += [sparse.values(), sparse.lengths()]
    return sum(tensor.nbytes for tensor in tensors)
