"""A rank's batches: opened in one way by training, evaluation and prediction; in training, no rank runs out alone."""

from collections.abc import Iterator

from data.batch import Batch
from data.errors import ExpectedError
from data.pipeline.account import Account
from data.pipeline.collate import PADDING, Span, assemble
from data.pipeline.readers import ReadingTimes
from data.reading import Reading
from data.stream import BatchStream, stream
from data.trace import TraceWriter
from trainer.distributed.world import World


def open_stream(
    reading: Reading, world: World, samples: int, *, threads: int = 2, trace: TraceWriter | None = None
) -> BatchStream:
    """This rank's batches after `samples` global samples, in pinned memory on a GPU. Close it to end its threads.

    `trace` records the rows of each batch, and is closed with the stream.
    """
    is_pinned = world.device.type == "cuda"
    return stream(reading, world.lanes(reading.lanes), samples, threads=threads, pin=is_pinned, trace=trace)


class TrainBatches(Iterator[Batch]):
    """A stream's batches, and batches of padding once it cannot be read any more.

    A rank that left at once would leave the others waiting for it. It goes on until the next meeting of all ranks
    (`trainer.step`), after which all raise its error (`trainer.data_faults`).
    """

    def __init__(self, batches: BatchStream, reading: Reading, lanes: int) -> None:
        """`lanes`: how many this rank serves."""
        self._batches = batches
        self._reading = reading
        self._lanes = lanes
        self.error: ExpectedError | None = None

    def __next__(self) -> Batch:
        if self.error is None:
            try:
                return next(self._batches)
            except ExpectedError as error:
                self.error = error

        num_rows = self._reading.rows_per_lane
        no_rows = [Span(lane, PADDING, start=0, num_rows=num_rows) for lane in range(self._lanes)]
        return assemble(self._reading.columns, [], no_rows, num_rows)[0]

    @property
    def times(self) -> ReadingTimes:
        """What the reading has taken so far."""
        return self._batches.times

    @property
    def account(self) -> Account:
        """What could not be read or used so far."""
        return self._batches.account

    def check(self) -> None:
        """Raises the error that has been met, if any."""
        if self.error is not None:
            raise self.error
