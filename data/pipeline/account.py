"""What a stream could not read or use, by the place of each row in the order.

Decoding is ahead of the batches. So a row is counted by the samples at which its global batch begins: whoever knows how
far the training is counts what has been trained, and nothing else.

Shapes: N rows of one entry, D dense features.
"""

import threading
from dataclasses import dataclass

import numpy as np

from data.columns.decode import Rows
from data.hashing import Int64
from data.pipeline.row_groups import ReadTask
from data.reading import Reading


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


@dataclass(frozen=True, eq=False)
class BadValues:
    """Rows of a row group that came as padding, for the same fault of the same column."""

    epoch: int
    file: str
    """Path below the dataset's root."""
    row_group: int
    """Index inside its file."""
    column: str
    reason: str
    message: str
    """Names one of the rows, with its value."""
    rows_N: Int64
    """Their numbers in the row group, as stored."""
    samples_N: Int64
    """Where the global batch of each begins; ascending."""


class Account:
    """What the parts that have been decoded so far hold, of one rank."""

    def __init__(self, reading: Reading) -> None:
        self.skipped: list[SkippedRows] = []
        """In no order."""
        self.bad_values: list[BadValues] = []
        """In no order, but for those that have been taken."""
        self.num_bad_values = 0
        """How many there have been, taken or not."""
        self.not_finite_D = np.zeros(len(reading.columns.features.dense), np.int64)
        """NaN and ±inf of each dense feature so far."""
        self._reading = reading
        self._not_finite_of_batch: dict[int, Int64] = {}
        """The same by batch, of those that `not_finite_until` has not asked for."""
        self._lock = threading.Lock()

    def skip(self, task: ReadTask, reason: str) -> None:
        """Notes that the rows of a task could not be read."""
        file, row_group = self._place_of(task)
        self.skipped.append(SkippedRows(task.epoch, file, row_group, task.start, task.stop, reason))

    def add(self, task: ReadTask, rows: Rows) -> None:
        """Notes what is bad or not finite among the rows of a task."""
        file, row_group = self._place_of(task)
        for bad in rows.bad:
            samples_N = self._samples(task, bad.places)
            entry = BadValues(task.epoch, file, row_group, bad.column, bad.reason, bad.message, bad.rows, samples_N)
            with self._lock:
                self.bad_values.append(entry)
                self.num_bad_values += 1

        for feature, places in enumerate(rows.not_finite):
            if len(places):
                self._count_not_finite(feature, self._samples(task, places))

    def take_bad_values(self) -> list[BadValues]:
        """Those that have come up since the last time."""
        with self._lock:
            taken = self.bad_values.copy()
            self.bad_values.clear()
        return taken

    def not_finite_until(self, samples: int) -> Int64:
        """NaN and ±inf of each dense feature in the batches that begin before `samples`, each counted once."""
        with self._lock:
            batches = [batch for batch in self._not_finite_of_batch if batch < samples]
            counts = [self._not_finite_of_batch.pop(batch) for batch in batches]
        return sum(counts, np.zeros_like(self.not_finite_D))

    def _place_of(self, task: ReadTask) -> tuple[str, int]:
        manifest = self._reading.manifest
        return manifest.files[manifest.file[task.group]], int(manifest.group[task.group])

    def _samples(self, task: ReadTask, places: Int64) -> Int64:
        """Where the global batches of the rows at some places of a task begin."""
        reading = self._reading
        batches = task.epoch * reading.batches_per_epoch + (task.needed + places) // reading.rows_per_lane
        return batches * reading.global_batch_size

    def _count_not_finite(self, feature: int, samples: Int64) -> None:
        batches, counts = np.unique(samples, return_counts=True)
        with self._lock:
            self.not_finite_D[feature] += len(samples)
            if self._reading.keep_last:
                return  # an evaluation asks for the sum alone
            for batch, count in zip(batches.tolist(), counts.tolist(), strict=True):
                counts_D = self._not_finite_of_batch.setdefault(batch, np.zeros_like(self.not_finite_D))
                counts_D[feature] += count
