"""Row groups that are read in blocks: how many rows, what is in memory, and what damage costs."""

from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.columns.decode import Columns
from data.columns.numbers import Label
from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.features import Features, SparseFeature
from data.order import block_of
from data.pipeline.block_rows import FEWEST_ROWS, MOST_ROWS, measure_block_rows
from data.pipeline.blocks import BlockReader
from data.pipeline.row_groups import tasks_of_epoch
from data.reading import Reading
from data.stream import stream

NUM_ROWS = 20_000
COLUMNS = Columns(
    Features(sparse=(SparseFeature(column="x", table="t"),)), {"t": NUM_ROWS}, (Label("y", binary=False),)
)


def write(path: Path, num_rows: int = NUM_ROWS, row_group_rows: int = NUM_ROWS) -> Path:
    table = pa.table({"x": np.arange(num_rows), "y": np.zeros(num_rows)})
    pq.write_table(
        table,
        path / "a.parquet",
        row_group_size=row_group_rows,
        use_dictionary=False,
        compression="none",
        data_page_size=1 << 13,
        write_page_checksum=True,
    )
    return path


def reading_of(root: Path, **changes: object) -> Reading:
    usual = Reading(read_manifest(str(root), cache=None), COLUMNS, 100, 2, "shuffled", 17)
    return replace(usual, **changes)  # type: ignore[arg-type]


def ids_of_batches(reading: Reading, count: int, samples: int = 0) -> list[list[int]]:
    with closing(stream(reading, range(reading.lanes), samples)) as batches:
        return [batch.sparse.values().tolist() for batch in islice(batches, count)]


@given(st.integers(1, 1000), st.one_of(st.none(), st.integers(1, 1200)))
def test_blocks_are_as_few_and_as_equal_as_can_be(rows: int, block_rows: int | None) -> None:
    blocks = list(dict.fromkeys(block_of(row, rows, block_rows) for row in range(rows)))
    assert [row for block in blocks for row in block] == list(range(rows))
    if block_rows is None or rows <= block_rows:
        assert blocks == [range(rows)]
        return
    fewest = -(-rows // block_rows)
    sizes = [len(block) for block in blocks]
    assert max(sizes) <= block_rows
    assert len(blocks) <= fewest
    assert set(sizes[:-1]) <= {max(sizes)}
    assert fewest * (max(sizes) - 1) < rows


@pytest.mark.parametrize("order", ["shuffled", "stored"])
def test_a_resumed_stream_reads_on_in_the_middle_of_a_row_group(tmp_path: Path, order: str) -> None:
    reading = reading_of(write(tmp_path), block_rows=700, order=order)
    whole = ids_of_batches(reading, 400)
    assert sorted(row for batch in whole[:200] for row in batch) == list(range(NUM_ROWS))
    for batch in (1, 77, 199, 260):
        assert ids_of_batches(reading, 40, batch * 100) == whole[batch : batch + 40]


def test_a_row_group_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """A block, and what Arrow has read ahead: one page of each column."""
    rows = 1 << 20
    table = pa.table({"x": np.arange(rows), "y": np.zeros(rows)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows, use_dictionary=False, data_page_size=1 << 16)
    reading = reading_of(tmp_path, block_rows=1 << 12)
    tasks = tasks_of_epoch(reading, range(1), 0, 0)
    assert len(tasks) == 128
    before = pa.total_allocated_bytes()
    largest = 0
    with closing(BlockReader(reading.manifest, COLUMNS.names)) as blocks:
        for task in tasks:
            read = blocks.read(task)
            assert read["x"][0].as_py() == task.block.start
            largest = max(largest, pa.total_allocated_bytes() - before)
    assert largest < table.nbytes // 16
    assert pa.total_allocated_bytes() - before <= read.get_total_buffer_size()


def test_damage_costs_the_blocks_from_there_on(tmp_path: Path) -> None:
    """Wherever reading begins, and however many ranks there are: the same rows are padding."""
    reading = reading_of(write(tmp_path), block_rows=1000, order="stored", on_bad_file="skip")
    whole = ids_of_batches(reading, 200)
    path = tmp_path / "a.parquet"
    contents = bytearray(path.read_bytes())
    contents[contents.index(np.arange(9000, 9100).tobytes())] ^= 1
    path.write_bytes(contents)
    expected = [[row for row in batch if row < 8000] for batch in whole]  # the page with row 9000 begins before it
    assert ids_of_batches(reading, 200) == expected
    assert ids_of_batches(reading, 120, 80 * 100) == expected[80:]
    with pytest.raises(DataError, match=r"row group 0 of .*a\.parquet: cannot be read"):
        ids_of_batches(replace(reading, on_bad_file="fail"), 200)


def test_a_row_group_that_ends_early_is_damage_not_the_end_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No writer makes such a file, so pyarrow's reader is made to stop."""
    reading = reading_of(write(tmp_path), block_rows=1000, order="stored")
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *arguments, **options: islice(iter_batches(*arguments, **options), 7)
    )
    with pytest.raises(DataError, match=r"row group 0 of .*a\.parquet: ends after 7000 rows, before its footer says"):
        ids_of_batches(reading, 200)


def test_memory_decides_how_many_rows_a_block_has(tmp_path: Path) -> None:
    reading = reading_of(write(tmp_path, 20_000), lanes=8)
    assert measure_block_rows(reading, 10**9, 8) == MOST_ROWS
    some = measure_block_rows(reading, 10**7, 1)
    assert FEWEST_ROWS < some < MOST_ROWS
    assert measure_block_rows(reading, 2 * 10**7, 1) == pytest.approx(2 * some, abs=2)
    assert measure_block_rows(replace(reading, lanes=4), 10**7, 1) == pytest.approx(2 * some, abs=2)


def test_the_same_block_for_any_number_of_ranks_and_row_groups(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    large, small = (write(path, row_group_rows=rows) for path, rows in ((tmp_path, 20_000), (tmp_path / "other", 500)))
    found = {
        measure_block_rows(reading_of(root, lanes=8), 10**7, lanes)
        for root in (large / "a.parquet", small)
        for lanes in (1, 2)
    }
    assert max(found) - min(found) <= 0.05 * max(found)


def test_too_little_memory_is_an_error_that_says_how_much_will_do(tmp_path: Path) -> None:
    reading = reading_of(write(tmp_path, 20_000), lanes=8)
    with pytest.raises(
        DataError, match=r"data.memory = 20,000,000 bytes are too few: 8 lanes on a rank need about 27 MB"
    ):
        measure_block_rows(reading, 2 * 10**7, 8)
    assert measure_block_rows(reading, 2 * 10**7, 2)
