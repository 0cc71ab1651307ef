"""The record of the rows that a stream has handed out, and what a sudden end leaves of it."""

import errno
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.manifest import Manifest
from data.order import OrderName
from data.pipeline.blocks import read_rows
from data.pipeline.row_groups import tasks_of_epoch
from data.reading import Reading
from data.stream import stream
from data.trace import TraceWriter, read_trace
from tests.data.test_stream import NAMES, NUM_ROWS, Row, rank_lanes, reading_of, rows_of, write_files


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(str(write_files(tmp_path_factory.mktemp("dataset"))), cache=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rank0.arrows"


def trace_of(path: Path) -> list[tuple[int, int]]:
    samples, rows = read_trace(path)
    assert samples.dtype == rows.dtype == np.int64
    return list(zip(samples.tolist(), rows.tolist(), strict=True))


def take_traced(reading: Reading, lanes: range, samples: int, count: int | None, path: Path) -> list[list[Row]]:
    batches = stream(reading, lanes, samples, trace=TraceWriter(path))
    try:
        return [rows_of(batch) for batch in islice(batches, count)]
    finally:
        batches.close()


def expected_trace(batches: list[list[Row]], begin: int = 0) -> list[tuple[int, int]]:
    """Each row of the test data holds its number."""
    return [(begin + 8 * index, row.number) for index, batch in enumerate(batches) for row in batch]


# ---- what is recorded


@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("first", [0, 3, 9])
def test_the_trace_holds_the_rows_of_every_batch(
    manifest: Manifest, path: Path, order: OrderName, world_size: int, first: int
) -> None:
    """Into the second pass."""
    reading = reading_of(manifest, order=order)
    for rank in range(world_size):
        batches = take_traced(reading, rank_lanes(reading, rank, world_size), first * 8, 6, path)
        assert trace_of(path) == expected_trace(batches, first * 8)


def test_a_batch_is_recorded_when_it_is_handed_out(manifest: Manifest, path: Path) -> None:
    """Not when it is made ready, not only at the end."""
    batches = stream(reading_of(manifest), range(4), 0, trace=TraceWriter(path))
    batches.wait_for_first()
    assert trace_of(path) == []
    taken = []
    for _ in range(3):
        taken.append(rows_of(next(batches)))
        assert trace_of(path) == expected_trace(taken)
    batches.close()
    assert trace_of(path) == expected_trace(taken)


def test_padding_is_not_recorded(manifest: Manifest, path: Path) -> None:
    reading = reading_of(manifest, order="stored", keep_last=True)
    assert len(take_traced(reading, range(4), 0, None, path)) == 8
    assert sorted(row for _, row in trace_of(path)) == list(range(NUM_ROWS))


def test_skipped_rows_are_not_recorded(tmp_path: Path, path: Path) -> None:
    root = write_files(tmp_path / "dataset")
    reading = reading_of(read_manifest(str(root), cache=None), keep_last=True, on_bad_file="skip")
    (root / "day=2/x/a.parquet").unlink()
    take_traced(reading, range(4), 0, None, path)
    assert sorted(row for _, row in trace_of(path)) == [*range(22), *range(31, NUM_ROWS)]


def test_a_batch_without_a_row_leaves_no_trace(tmp_path: Path, path: Path) -> None:
    root = write_files(tmp_path / "dataset")
    reading = reading_of(read_manifest(str(root), cache=None), on_bad_file="skip")
    for file in root.rglob("*.parquet"):
        file.unlink()
    assert len(take_traced(reading, range(4), 0, 3, path)) == 3
    assert trace_of(path) == []


def test_without_a_trace_rows_carry_no_numbers(manifest: Manifest) -> None:
    reading = reading_of(manifest)
    task = tasks_of_epoch(reading, range(4), 0, 0)[0]
    rows = read_rows(reading, task)
    assert rows.row_ids_R.tolist() == rows.dense_RD[:, 0].tolist()


# ---- a sudden end

WRITER = """
import sys
from pathlib import Path
import numpy as np
from data.trace import TraceWriter
trace = TraceWriter(Path(sys.argv[1]))
for batch in range(5):
    trace.write(batch * 8, np.arange(batch * 8, batch * 8 + 8))
print("written", flush=True)
sys.stdin.read()
"""


def test_what_was_written_survives_the_kill_of_the_process(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    assert trace_of(path) == [(row // 8 * 8, row) for row in range(40)]


def test_a_file_cut_anywhere_is_read_up_to_its_last_whole_batch(path: Path) -> None:
    """Or as if a torn end were filled with zeros, as a file system may leave it after a power cut."""
    trace, ends, batches = TraceWriter(path), [], []
    for batch in ([5, 3, 8], [2], [], [7, 1]):
        trace.write(len(ends) * 8, np.array(batch, np.int64))
        ends.append(path.stat().st_size)
        batches.append([((len(ends) - 1) * 8, row) for row in batch])
    trace.close()
    whole = path.read_bytes()
    assert len(whole) == ends[-1]
    for cut in range(len(whole) + 1):
        expected = [row for end, rows in zip(ends, batches, strict=True) if end <= cut for row in rows]
        path.write_bytes(whole[:cut])
        assert trace_of(path) == expected
    for end in ends:
        path.write_bytes(whole[:end] + bytes(64))
        assert trace_of(path) == [row for stop, rows in zip(ends, batches, strict=True) if stop <= end for row in rows]


def test_a_new_trace_replaces_the_old(path: Path) -> None:
    for row in (1, 2):
        trace = TraceWriter(path)
        trace.write(0, np.array([row]))
        trace.close()
    assert trace_of(path) == [(0, 2)]


# ---- what goes wrong


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=rf"^{path}: cannot be read \(.*\); "):
            read_trace(path)


def test_another_stream_is_no_trace(path: Path) -> None:
    batch = pa.record_batch({"samples": [1.5], "row": [2]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match=rf"^{path}: not a trace; "):
        read_trace(path)


def test_a_trace_that_cannot_be_begun_is_named(manifest: Manifest, path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        stream(reading_of(manifest), range(4), 0, trace=TraceWriter(path / "trace"))
    assert caught.value.filename == str(path / "trace")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_named_where_the_batch_is_asked_for(manifest: Manifest) -> None:
    batches = stream(reading_of(manifest), range(4), 0, trace=TraceWriter(Path("/dev/full")))
    with pytest.raises(OSError, match="No space left") as caught:
        next(batches)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")
    batches.close()
