"""What a rank reads, and what its batches are gathered from: arithmetic on the order, before anything is read."""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from data.batch import Batch
from data.columns.decode import Rows
from data.pipeline.collate import PADDING, Span
from data.pipeline.row_groups import ReadTask, tasks_of_epoch
from data.reading import Reading


@dataclass
class Wanted:
    """A part to read, and what became of it."""

    task: ReadTask
    rows: Rows | None = None
    """None before it is done, and where it cannot be read and is replaced by padding."""
    error: BaseException | None = None
    is_done: bool = False


@dataclass
class Gathering:
    """Batches in a row that are gathered together, and what became of them."""

    num_batches: int
    parts: list[Wanted] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    used_up: int = 0
    """Parts of which nothing is left after these batches."""
    batches: list[Batch] = field(default_factory=list)
    error: BaseException | None = None
    """Stands in the place of the batch after `batches`."""
    is_begun: bool = False
    is_done: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether all parts are there."""
        return all(part.is_done for part in self.parts)


class Plan:
    """A rank's parts in the order in which they are first needed, and the batches that are gathered from them."""

    def __init__(self, reading: Reading, lanes: range, first_batch: int) -> None:
        self.to_read: deque[Wanted] = deque()
        """Parts that are needed, and not handed out to be read."""
        self._rows_per_lane = reading.rows_per_lane
        self._tasks = _tasks(reading, lanes, first_batch)
        self._parts: dict[int, deque[Wanted]] = {lane: deque() for lane in lanes}
        self._used = dict.fromkeys(lanes, 0)
        """Rows of the front part of each lane that have gone into batches."""
        self._batches_left = reading.batches_per_epoch - first_batch if reading.keep_last else None

    def next_part(self, busy_lanes: set[int]) -> Wanted | None:
        """The part that is needed next and can be read: a block of a row group waits for the one before it.

        None if there is none now, or where the data ends.
        """
        if not self.to_read:
            self._pull()
        for index, part in enumerate(self.to_read):
            if part.task.is_whole or part.task.lane not in busy_lanes:
                del self.to_read[index]
                return part
        return None

    def next_gathering(self, most_batches: int) -> Gathering | None:
        """Up to so many batches; what they need is in `to_read` or has been handed out. None where the data ends."""
        if self._batches_left is not None:
            most_batches = min(most_batches, self._batches_left)
            self._batches_left -= most_batches
        if most_batches == 0:
            return None

        gathering = Gathering(most_batches)
        for number, lane in enumerate(self._parts):
            self._take(lane, number, gathering)
        return gathering

    def _take(self, lane: int, number: int, gathering: Gathering) -> None:
        """Adds a lane's rows of all batches to the gathering; padding where the lane ends."""
        waiting = self._parts[lane]
        missing = gathering.num_batches * self._rows_per_lane
        while missing and (waiting or self._reach(lane)):
            part = waiting[0]
            start = self._used[lane]
            size = part.task.stop - part.task.start
            count = min(missing, size - start)
            gathering.spans.append(Span(number, len(gathering.parts), start, count))
            gathering.parts.append(part)
            missing -= count
            self._used[lane] += count
            if self._used[lane] == size:
                waiting.popleft()
                self._used[lane] = 0
                gathering.used_up += 1

        if missing:
            gathering.spans.append(Span(number, PADDING, 0, missing))

    def _reach(self, lane: int) -> bool:
        """Takes parts in order of need until one is the lane's; False if none is left."""
        while not self._parts[lane]:
            if not self._pull():
                return False
        return True

    def _pull(self) -> bool:
        """Takes the next part of all lanes; False if none is left."""
        task = next(self._tasks, None)
        if task is None:
            return False
        part = Wanted(task)
        self._parts[task.lane].append(part)
        self.to_read.append(part)
        return True


def _tasks(reading: Reading, lanes: range, first_batch: int) -> Iterator[ReadTask]:
    """Pass after pass; a single one where the last rows are kept."""
    first_epoch, skip_batches = divmod(first_batch, reading.batches_per_epoch)
    yield from tasks_of_epoch(reading, lanes, first_epoch, skip_batches)
    if reading.keep_last:
        return

    for epoch in itertools.count(first_epoch + 1):
        yield from tasks_of_epoch(reading, lanes, epoch, skip_batches=0)
