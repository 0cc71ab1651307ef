"""A rank's batches, from any sample on: the whole way from row groups to tensors, in data/pipeline/.

    1. plan      which rows of which row groups this rank's lanes need, in the order of need    plan.py
    2. decode    a block of a row group: one checked and permuted array for each column         blocks.py, row_groups.py
    3. gather    several batches at once, from all lanes, straight into tensors                 collate.py
    4. hand out  the batches, one by one                                                        here

Threads do steps 2 and 3 (readers.py): whoever is free takes what is needed most. Both are few long calls without the
interpreter lock (Arrow, compiled loops), and several batches at once change hands.

The state of all this is one number: samples handed out globally. Memory holds one decoded block for each lane, one more
for each thread, and some batches: it grows neither with the dataset nor with its row groups.

What cannot be read is an error in step 2 or, with `on_bad_file = "skip"`, becomes as many padding rows, so that all
else stays in its place; so does a row with a bad value, with `on_bad_value = "skip"`. `BatchStream.account` says which.
Every row carries its number in the dataset from step 2 on; with a trace, the numbers are written down when the batch is
handed out.
"""

import time
from collections import deque
from collections.abc import Iterator

from data.batch import Batch
from data.pipeline.readers import Readers
from data.reading import Reading
from data.trace import TraceWriter


class BatchStream(Iterator[Batch]):
    """A rank's batches, what could not be read of them, and a trace of those handed out if one is asked for."""

    def __init__(
        self,
        reading: Reading,
        lanes: range,
        first_batch: int,
        threads: int,
        pin: bool,
        trace: TraceWriter | None,
    ) -> None:
        self._readers = Readers(reading, lanes, first_batch, threads, pin)
        self.account = self._readers.account
        """What could not be read or used so far; the decoding is up to a few row groups ahead of the batches."""
        self.times = self._readers.times
        self._batches: deque[Batch] = deque()
        self._trace = trace
        self._batch_size = reading.global_batch_size
        self._samples = first_batch * self._batch_size

    def __next__(self) -> Batch:
        if not self._batches:
            begin = time.perf_counter()
            self._batches.extend(self._readers.take())
            self.times.wait += time.perf_counter() - begin

        batch = self._batches.popleft()
        if self._trace:
            row_ids_B = batch.row_ids_B.numpy()
            self._trace.write(self._samples, row_ids_B[row_ids_B >= 0])
            self._samples += self._batch_size
        return batch

    def wait_for_first(self) -> None:
        """Waits until a batch is ready, and leaves it; an error so far is raised here."""
        try:
            self._batches.extend(self._readers.take())
        except StopIteration:
            return

    def close(self) -> None:
        """Ends the threads and the trace; batches not yet taken are lost."""
        self._readers.close()
        self._batches.clear()
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
    return BatchStream(reading, lanes, first_batch, threads, pin, trace)
