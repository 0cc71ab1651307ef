"""What goes wrong with the data or the numbers of a step: judged alike on all ranks, counted, and written down."""

import heapq
from dataclasses import asdict, dataclass, field

import numpy as np

from data.hashing import Int64
from data.pipeline.account import BadValues, SkippedRows
from data.pipeline.row_groups import describe_batch
from data.reading import Reading
from trainer.batches import TrainBatches
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import RunError
from trainer.logging.train_log import TrainLog
from trainer.run.records import BadValuesEvent, SkippedBatchEvent, SkippedRowsEvent
from trainer.step.verdict import Verdict

NOT_FINITE = "a loss or gradient is not finite"
NAMED_ROW_GROUPS = 8
"""So many row groups of a batch are named in a message; the rest are counted."""
BAD_ROWS_ALLOWED = 10
"""So many rows with bad values never stop a run that skips them: one in the first batch is far more than its share."""


@dataclass(order=True)
class _Waiting:
    """Rows with bad values, of which not all have been trained; ordered by when the next one is."""

    samples: int
    """At which the batch of the next row begins."""
    number: int
    """Counts all of them, so that each has its place in the order."""
    entry: BadValues = field(compare=False)
    num_trained: int = field(default=0, compare=False)


class DataFaults:
    """Accounts of batches and rows that were left out; raises RunError if there are too many.

    Data that cannot be read is raised on all ranks, as the DataError of the rank that met it.
    """

    def __init__(self, config: Config, world: World, reading: Reading, batches: TrainBatches, log: TrainLog) -> None:
        self._config = config
        self._world = world
        self._log = log
        self._reading = reading
        self._batches = batches
        self._skipped_batches = 0
        self._num_skipped_rows = 0
        """Stretches of unreadable rows that all ranks together have met, as of the newest verdict."""
        self._num_reported = 0
        """Of these, those of this rank that have been reported."""
        self._row_groups_skipped: set[tuple[str, int]] = set()
        self._num_bad_values = 0
        """Stretches of rows with bad values that all ranks together have met."""
        self._bad_values: list[_Waiting] = []
        """A heap of those of which rows are still to be trained; the same on all ranks."""
        self._num_bad_rows = 0
        self._num_rows = 0
        """Trained in this start."""
        self._faults_told: set[tuple[str, str]] = set()
        """Columns and reasons that have been warned of."""

    def handle(self, verdict: Verdict, samples: int) -> None:
        """After the step whose batch begins at `samples`. Collective where there is something to handle."""
        if verdict.failed:
            self._world.raise_on_all_ranks(self._batches.check)

        if verdict.skipped > self._num_skipped_rows:
            self._num_skipped_rows = verdict.skipped
            self._account_for_rows(samples)
            self._learn_of_bad_values()
        self._account_for_bad_rows(samples)

        if verdict.unsound:
            self._account_for_batch(samples)

    def _account_for_rows(self, samples: int) -> None:
        """Writes down the unreadable rows that the ranks have met since the last time."""
        skipped = list(self._batches.account.skipped)  # the stream's threads add to it meanwhile
        new = skipped[self._num_reported :]
        self._num_reported = len(skipped)

        # Every rank takes this branch: the verdict that led here is the same on all.
        for entries in self._world.gather(new):
            for entry in entries:
                self._report(entry, samples)

        limit = self._config.data.bad_row_groups
        if len(self._row_groups_skipped) > limit:
            raise RunError(
                f"more than data.bad_row_groups = {limit} row groups cannot be read; fix the files that the warnings "
                "name, or raise the limit"
            )

    def _report(self, entry: SkippedRows, samples: int) -> None:
        self._row_groups_skipped.add((entry.file, entry.row_group))
        self._log.event(SkippedRowsEvent, samples, **asdict(entry))
        num_rows = entry.stop - entry.start
        row_group = f"row group {entry.row_group} of {entry.file}"
        self._log.warn(f"{row_group}: {entry.reason}; {num_rows:,} of its rows are left out")

    def _learn_of_bad_values(self) -> None:
        """Makes those that any rank has met since the last time known to all."""
        # Every rank takes this branch: the verdict that led here is the same on all.
        for entries in self._world.gather(self._batches.account.take_bad_values()):
            for entry in entries:
                self._num_bad_values += 1
                heapq.heappush(self._bad_values, _Waiting(int(entry.samples_N[0]), self._num_bad_values, entry))

    def _account_for_bad_rows(self, samples: int) -> None:
        """Counts the rows with bad values in the batch that begins at `samples`, the same on all ranks."""
        self._num_rows += self._reading.global_batch_size
        while self._bad_values and self._bad_values[0].samples <= samples:
            waiting = heapq.heappop(self._bad_values)
            self._count_bad_rows(waiting, samples)
            if waiting.num_trained < len(waiting.entry.rows_N):
                waiting.samples = int(waiting.entry.samples_N[waiting.num_trained])
                heapq.heappush(self._bad_values, waiting)

        allowed = self._config.data.bad_values_per_million
        if self._num_bad_rows > max(BAD_ROWS_ALLOWED, allowed * self._num_rows / 10**6):
            raise RunError(
                f"{self._num_bad_rows:,} of the {self._num_rows:,} rows of this start hold bad values, more than "
                f"{BAD_ROWS_ALLOWED} and than data.bad_values_per_million = {allowed:g}; correct what events.jsonl "
                "names, or raise the limit"
            )

    def _count_bad_rows(self, waiting: _Waiting, samples: int) -> None:
        """Counts those in the batch that begins at `samples`."""
        entry = waiting.entry
        if not waiting.num_trained:
            self._report_bad_values(entry, samples)
        num_trained = int(np.searchsorted(entry.samples_N, samples, side="right"))
        rows = num_trained - waiting.num_trained
        self._log.count_bad_rows(entry.column, rows)
        self._num_bad_rows += rows
        waiting.num_trained = num_trained

    def _report_bad_values(self, entry: BadValues, samples: int) -> None:
        self._log.event(
            BadValuesEvent,
            samples,
            epoch=entry.epoch,
            file=entry.file,
            row_group=entry.row_group,
            column=entry.column,
            reason=entry.reason,
            rows=len(entry.rows_N),
            ranges=_ranges(entry.rows_N),
        )
        if (entry.column, entry.reason) not in self._faults_told:
            self._faults_told.add((entry.column, entry.reason))
            self._log.warn(f"{entry.message}; such rows weigh 0, events.jsonl names all of them")

    def _account_for_batch(self, samples: int) -> None:
        end = samples + self._reading.global_batch_size
        batch = f"the batch of samples {samples:,} to {end:,}, with rows of {self._row_groups_of(samples)}"
        what = f"{NOT_FINITE} in {batch}"
        train = self._config.train
        if train.on_non_finite == "stop":
            raise RunError(
                f"{what}; it was not trained. Start again with a lower learning rate or corrected data, or with "
                "train.on_non_finite = 'skip' to leave such batches out"
            )

        self._skipped_batches += 1
        self._log.event(SkippedBatchEvent, samples, batch=self._reading.global_batch_size)
        self._log.warn(f"{what}; the batch is left out")
        if self._skipped_batches > train.non_finite_batches:
            raise RunError(f"{what}; more than train.non_finite_batches = {train.non_finite_batches} were left out")

    def _row_groups_of(self, samples: int) -> str:
        names = describe_batch(self._reading, samples)
        more = len(names) - NAMED_ROW_GROUPS
        return ", ".join(names[:NAMED_ROW_GROUPS]) + (f" and {more} more" if more > 0 else "")


def _ranges(rows: Int64) -> list[tuple[int, int]]:
    """Rows in any order as ranges, ascending."""
    rows = np.sort(rows)
    begins = np.flatnonzero(np.diff(rows, prepend=-2) > 1)
    ends = np.append(begins[1:], len(rows)) - 1
    return [(int(rows[begin]), int(rows[end]) + 1) for begin, end in zip(begins, ends, strict=True)]
