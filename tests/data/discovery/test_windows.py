"""Names of folders and files → their order in time, or an error that names two of them."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.discovery.dataset import read_manifest
from data.discovery.windows import check_windows, number_windows, window_name
from data.errors import DataError
from data.order import order

IN_TIME = {
    "hours": [f"hour={hour}" for hour in range(24)],
    "parts": [f"part.{part}.parquet" for part in (2, 10, 100)],
    "parts with codecs": ["part-9.snappy.parquet", "part-10.parquet", "part-11.gz.PARQUET"],
    "dates": ["2024-1-9", "2024-01-10", "2024-2-1", "2024-10-01", "2025-1-1"],
    "days of Hive": ["day=9", "day=10"],
    "nested": [f"year={year}/month={month}/day={day}" for year in (9, 10) for month in (2, 12) for day in (1, 9, 10)],
    "negative numbers": ["offset=-10", "offset=-2", "offset=0", "offset=3"],
    "negative numbers in names": ["before_-10", "before_-2"],
    "decimals": ["t=-1.25", "t=-0.75", "t=0.50", "t=10.00"],
    "Spark's doubles": ["t=9.5E8", "t=1.7E9", "t=1.7048448E9"],
    "ISO times": ["ts=2024-01-09T05:00:00Z", "ts=2024-01-09T23:00:00Z", "ts=2024-01-10T05:00:00Z"],
    "dates and times of day": ["2024-01-19_1900", "2024-01-19_2000", "2024-01-20_0100"],
    "keys with dates and times of day": ["ts=2024-01-19-1900", "ts=2024-01-19-2000"],
    "encoded and not": ["ts=2024-01-09 05%3A00", "ts=2024-01-09%205:30", "ts=2024-01-09 10%3A00"],
    "beyond int64": ["9" * 20, "1" + "0" * 20],
    "padded": [f"day_{day:02}" for day in range(1, 32)],
    "files named like folders": ["day=3.parquet", "day=20/x"],
    "one job of Spark": [f"part-{part:05}-6f1a-c2.c000.snappy.parquet" for part in range(12)],
    "one window": ["__HIVE_DEFAULT_PARTITION__"],
    "short names": [f"dt={day}/hr={hour}" for day in (9, 10) for hour in (1, 12)],
    "one word": ["train"],
}  # fmt: skip


@pytest.mark.parametrize("names", IN_TIME.values(), ids=IN_TIME)
def test_numbers_are_compared_as_numbers(names: list[str]) -> None:
    check_windows("dataset", names)
    assert number_windows(names).tolist() == list(range(len(names)))
    shuffled = random.Random(17).sample(names, len(names))
    assert number_windows(shuffled).tolist() == [names.index(name) for name in shuffled]


def test_padding_does_not_matter() -> None:
    names = ["day=01", "day=1", "day=2", "day=02", "day=10"]
    check_windows("dataset", names)
    assert number_windows(names).tolist() == [0, 0, 1, 1, 2]


def test_padded_names_keep_the_order_of_their_text() -> None:
    names = [
        f"{year}/{month:02}/day={day:02}" for year in (2023, 2024) for month in (1, 10, 12) for day in range(1, 29)
    ]
    assert sorted(names, key=dict(zip(names, number_windows(names), strict=True)).__getitem__) == sorted(names)


UNSURE = {
    "words": (["jan", "feb"], "nothing tells whether 'feb' or 'jan' comes first"),
    "files": (["a.parquet", "b.parquet"], "nothing tells whether 'a.parquet' or 'b.parquet' comes first"),
    "a word among numbers": (["hour=3", "hour=unknown"], "whether 'hour=3' or 'hour=unknown' comes first"),
    "no value": (["hour=3", "hour=__HIVE_DEFAULT_PARTITION__"], "rows without a value, which have no place in time"),
    "an empty value": (["hour=3", "hour="], "whether 'hour=' or 'hour=3' comes first"),
    "two ways to write a date": (["day=20240109", "day=2024-01-10"], "whether 'day=2024-01-10' or 'day=20240109'"),
    "dates and times": (["2024-01-09", "2024-01-09T05"], "whether '2024-01-09' or '2024-01-09T05' comes first"),
    "times of two zones": (["2024-01-09T05:00Z", "2024-01-09T06:00+02:00"], "comes first"),
    "morning and afternoon": (["10am", "1pm"], "'10am' counts hours to 12"),
    "months by name": (["2024-Feb-01", "2024-Jan-02"], "comes first"),
    "day first": (["01-02-2024", "31-01-2024"], "'01-02-2024' has its year last"),
    "month first": (["d=12%2F2023", "d=01%2F2024"], "has its year last"),
    "decimals or versions": (["v1.9", "v1.10"], "whether 'v1.10' or 'v1.9' comes first"),
    "decimals or months": (["2024.9", "2024.10"], "whether '2024.10' or '2024.9' comes first"),
    "parts of seconds": (["t=05:00:00.5", "t=05:00:00.25"], "comes first"),
    "another key outside": (["country=DE/day=1", "country=US/day=1"], "'country=DE' or 'country=US' comes first"),
    "small unit outside": (["day=1/month=2", "day=2/month=1"], "'day=1/month=2' has 'day' outside 'month'"),
    "short names of units": (["hr=1/dt=2", "hr=2/dt=1"], "'hr=1/dt=2' has 'hr' outside 'dt'"),
    "padded and not": (["hour=09/b", "hour=9/a"], "whether 'b' or 'a' comes first"),
    "two digits of a year": (["day=09-01-24", "day=10-01-24"], "'day=09-01-24' does not say which number is the year"),
    "afternoons": (["hour=01PM", "hour=12PM"], "'hour=01PM' counts hours to 12"),
    "two depths, padded and not": (["day=01", "day=1/hour=2"], "files in 'day=01' or those in 'day=1/hour=2'"),
    "two depths": (["day=1", "day=1/hour=2", "day=2"], "whether the files in 'day=1' or those in 'day=1/hour=2' come"),
    "two jobs of Spark": (["part-00000-6f1a", "part-00000-77b2"], "comes first"),
    "two keys": (["day=1", "hour=2"], "whether 'day=1' or 'hour=2' comes first"),
}  # fmt: skip


@pytest.mark.parametrize(("names", "problem"), UNSURE.values(), ids=UNSURE)
def test_an_order_that_names_do_not_tell_is_refused(names: list[str], problem: str) -> None:
    with pytest.raises(DataError) as raised:
        check_windows("dataset", names)
    message = str(raised.value)
    assert message.startswith("dataset dataset: ")
    assert problem in message
    assert "; chronological order needs names that differ in numbers only" in message
    assert len(set(number_windows(names).tolist())) == len(names)  # no error where nobody asks for an order in time


def test_a_window_is_a_folder_or_a_file_at_the_root() -> None:
    assert [window_name(name) for name in ("a.parquet", "b/c/a.parquet", "b/a.parquet")] == ["a.parquet", "b/c", "b"]


def test_the_hours_of_a_day_are_trained_one_after_the_other(tmp_path: Path) -> None:
    for hour in range(12):
        folder = tmp_path / f"hour={hour}"
        folder.mkdir()
        pq.write_table(pa.table({"hour": [hour] * 5}), folder / "a.parquet", row_group_size=2)
    manifest = read_manifest(str(tmp_path), cache=None)
    layout = order(manifest.rows, manifest.window, name="chronological", seed=17, epoch=0, lanes=2)
    for lane in range(2):
        part = slice(layout.lane_begin[lane], layout.lane_begin[lane + 1])
        hours = [int(manifest.files[manifest.file[group]].split("/")[0][5:]) for group in layout.group[part]]
        assert sorted(set(hours)) == list(range(12))
        assert hours == sorted(hours)
    assert manifest.files == tuple(sorted(manifest.files)), "rows are numbered in the order of the paths as text"


def test_an_exponent_beyond_reason_is_refused() -> None:
    with pytest.raises(DataError, match=r"nothing tells whether 'b=1e9{20}' or 'b=2' comes first"):
        check_windows("dataset", ["b=2", "b=1e99999999999999999999"])
