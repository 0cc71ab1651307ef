import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.discovery.schema import Column, parse_schema
from data.errors import DataError
from data.storage.writer import staged_directory, write_parquet, write_schema

SCHEMA = pa.schema([("number", pa.int64())])


def numbers(start: int, stop: int) -> pa.Table:
    return pa.table({"number": pa.array(range(start, stop), pa.int64())}, SCHEMA)


def row_groups(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        ([0, 100], [100]),
        ([0, 16_384], [16_384]),
        ([0, 40_000], [16_384, 16_384, 7_232]),
        ([0, 10_000, 20_000, 20_000, 33_000], [16_384, 16_384, 232]),
        (list(range(0, 33_001, 1_000)), [16_384, 16_384, 232]),
        ([0, 0], []),
        ([0], []),
    ],
)
def test_row_groups_are_even_whatever_the_stream(tmp_path: Path, cuts: list[int], expected: list[int]) -> None:
    path = tmp_path / "train" / "part.parquet"
    tables = (numbers(start, stop) for start, stop in pairwise(cuts))
    assert write_parquet(path, SCHEMA, tables, row_group_rows=16_384) == cuts[-1]
    assert row_groups(path) == expected
    assert pq.read_table(path)["number"].to_pylist() == list(range(cuts[-1]))


def test_files_are_zstd_with_32k_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    write_parquet(path, SCHEMA, [numbers(0, 50_000)])
    assert row_groups(path) == [32_768, 17_232]
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


def test_a_changed_value_is_found_when_it_is_read(tmp_path: Path) -> None:
    """Pages carry checksums: a changed byte may well decompress, to another value."""
    path = tmp_path / "part.parquet"
    write_parquet(path, SCHEMA, [numbers(0, 20_000)])
    column = pq.read_metadata(path).row_group(0).column(0)
    whole = path.read_bytes()
    end = column.dictionary_page_offset + column.total_compressed_size
    for place in range(end - 2_000, end, 400):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet, pytest.raises(OSError, match="CRC"):
            parquet.read_row_group(0)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "part.parquet").mkdir()
    with pytest.raises(DataError, match=r"part\.parquet: cannot be written"):
        write_parquet(tmp_path / "part.parquet", SCHEMA, [numbers(0, 1)])


def test_schema_is_read_back(tmp_path: Path) -> None:
    column = Column("user_id", "int64", "feature", "The user.", cardinality=7)
    write_schema(tmp_path, [column])
    assert parse_schema((tmp_path / "schema.json").read_text()) == {"user_id": column}


def test_the_folder_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with staged_directory(out) as staged:
        assert staged == tmp_path / "new" / f"out.partial-{os.getpid()}"
        (staged / "file").write_text("text")
        assert not out.exists()
    assert everything_below(tmp_path) == ["new", "new/out", "new/out/file"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with staged_directory(tmp_path / "out") as staged:
        (staged / "file").write_text("text")
    assert everything_below(tmp_path) == ["out", "out/file"]


def fill_and_raise(out: Path, error: BaseException) -> None:
    with staged_directory(out) as staged:
        (staged / "train").mkdir()
        (staged / "train" / "file").write_text("text")
        raise error


@pytest.mark.parametrize("error", [DataError("mine"), KeyboardInterrupt(), FileNotFoundError("theirs")])
def test_nothing_is_left_after_an_exception(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        fill_and_raise(tmp_path / "new" / "deep" / "out", error)
    assert raised.value is error
    assert everything_below(tmp_path) == []


def test_folders_that_were_there_stay_after_an_exception(tmp_path: Path) -> None:
    (tmp_path / "old" / "out").mkdir(parents=True)
    with pytest.raises(DataError, match="mine"):
        fill_and_raise(tmp_path / "old" / "out", DataError("mine"))
    assert everything_below(tmp_path) == ["old", "old/out"]


def test_a_folder_that_was_filled_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="out: cannot be written"), staged_directory(tmp_path / "out"):
        folder_with_file(tmp_path)
    assert everything_below(tmp_path) == ["out", "out/file"]


def folder_with_file(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("theirs")
    return tmp_path / "out"


def plain_file(tmp_path: Path) -> Path:
    (tmp_path / "out").write_text("theirs")
    return tmp_path / "out"


def below_a_file(tmp_path: Path) -> Path:
    return plain_file(tmp_path) / "deeper" / "out"


def left_over(tmp_path: Path) -> Path:
    (tmp_path / f"out.partial-{os.getpid()}").mkdir()
    return tmp_path / "out"


def bucket(_: Path) -> Path:
    return Path("s3://bucket/out")


@pytest.mark.parametrize(
    ("obstacle", "message"),
    [
        (folder_with_file, r"out exists and is not empty; choose another folder or remove it$"),
        (plain_file, r"out is a file; choose another folder or remove it$"),
        (below_a_file, r"cannot be written \(.*\); choose another folder$"),
        (left_over, r"out\.partial-\d+ is left from a run that was killed; remove it and start again$"),
        (bucket, r"^s3:/bucket/out: only a local folder can be written"),
    ],
)
def test_obstacles_are_named_and_left_as_they_are(
    tmp_path: Path, obstacle: Callable[[Path], Path], message: str
) -> None:
    out = obstacle(tmp_path)
    before = everything_below(tmp_path)
    with pytest.raises(DataError, match=message), staged_directory(out):
        pytest.fail("the obstacle was not seen")
    assert everything_below(tmp_path) == before


def test_an_error_in_the_stream_of_tables_is_not_swallowed(tmp_path: Path) -> None:
    def tables() -> Iterator[pa.Table]:
        yield numbers(0, 10)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), staged_directory(tmp_path / "out") as staged:
        write_parquet(staged / "part.parquet", SCHEMA, tables())
    assert everything_below(tmp_path) == []
