"""What goes wrong with the data or the numbers of a step: judged alike on all ranks, counted, and written down."""

from dataclasses import asdict

from data.pipeline.readers import SkippedRows
from data.pipeline.row_groups import describe_batch
from data.reading import Reading
from trainer.batches import TrainBatches
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import RunError
from trainer.logging.train_log import TrainLog
from trainer.run.records import SkippedBatchEvent, SkippedRowsEvent
from trainer.step_guard import Verdict

NAMED_ROW_GROUPS = 8
"""So many row groups of a batch are named in a message; the rest are counted."""


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

    def handle(self, verdict: Verdict, samples: int) -> None:
        """After the step whose batch begins at `samples`. Collective where there is something to handle."""
        if verdict.failed:
            self._world.raise_on_all_ranks(self._batches.check)

        if verdict.skipped > self._num_skipped_rows:
            self._num_skipped_rows = verdict.skipped
            self._account_for_rows(samples)

        if verdict.unsound:
            self._account_for_batch(samples)

    def _account_for_rows(self, samples: int) -> None:
        """Writes down the unreadable rows that the ranks have met since the last time."""
        skipped = list(self._batches.skipped)  # the stream's threads add to it meanwhile
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

    def _account_for_batch(self, samples: int) -> None:
        end = samples + self._reading.global_batch_size
        batch = f"the batch of samples {samples:,} to {end:,}, with rows of {self._row_groups_of(samples)}"
        what = f"a loss or gradient is not finite in {batch}"
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
