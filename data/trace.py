"""A record of the rows that a stream has really handed out, for the audit of a run.

One file per start and rank, an Arrow IPC stream: a record batch for each batch, written to the operating system before
the trainer gets the batch. So it survives the end of the process, however sudden; it is cut short by it at most.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.errors import DataError, one_line
from data.hashing import Int64
from data.storage.files import naming, open_unlinked

_SCHEMA = pa.schema([pa.field(name, pa.int64(), nullable=False) for name in ("samples", "row")])
_RUN = b"run"


class TraceWriter:
    """Writes a trace to a local file, in place of what was there; raises OSError if the disk does not take it."""

    def __init__(self, path: Path, run: str | None = None) -> None:
        """`run`: id of the run, which the file keeps."""
        self._path = path
        with naming(path):
            self._file = open(path, "wb", opener=open_unlinked)  # noqa: SIM115 - closed by close()
            schema = _SCHEMA.with_metadata({_RUN: run} if run else None)
            self._stream = pa.ipc.new_stream(self._file, schema)
            self._file.flush()

    def write(self, samples: int, rows: Int64) -> None:
        """Records the rows (numbers in the whole dataset) of the batch that begins at `samples`."""
        columns = [pa.array(np.full(len(rows), samples)), pa.array(rows)]
        with naming(self._path):
            self._stream.write_batch(pa.record_batch(columns, schema=_SCHEMA))
            self._file.flush()

    def close(self) -> None:
        """Ends the file."""
        with suppress(OSError):  # of a write that failed, which has been reported
            self._file.close()  # no end mark: a reader has to do without anyway


def read_run(path: Path) -> str | None:
    """Id of the run that wrote a trace; None if it holds none, or is no trace."""
    try:
        with pa.OSFile(str(path), "rb") as file:
            found = (pa.ipc.open_stream(file).schema.metadata or {}).get(_RUN)
    except (pa.ArrowException, OSError):
        return None
    return found.decode(errors="replace") if found else None


def read_trace(path: Path) -> tuple[Int64, Int64]:
    """Samples at which its batch begins, and number in the whole dataset, of every row in a trace, as far as it goes.

    What a sudden end has left of a last record is passed over. Raises DataError if the file is no trace at all.
    """
    try:
        with pa.OSFile(str(path), "rb") as file:
            batches = list(_whole_batches(file))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)}); restore it") from error

    if any(not batch.schema.equals(_SCHEMA) for batch in batches):
        raise DataError(f"{path}: not a trace; name a file that a run wrote with run.trace = true")

    table = pa.Table.from_batches(batches, _SCHEMA)
    return table["samples"].to_numpy(), table["row"].to_numpy()


def _whole_batches(file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    with suppress(pa.ArrowException, OSError):  # the file ends inside its header or a record
        yield from pa.ipc.open_stream(file)
