"""KuaiRand-Pure (Gao et al., CIKM 2022): the official CSV files → a Parquet dataset, one file per day.

    log_standard_*_pure.csv ─► drop repeats ─► sort by time ─► split by date ─► train/20220425.parquet …
    user_features_pure.csv, video_features_basic_pure.csv ─► looked up per row
    the log of earlier days ─► history features, see kuairand_history.py

`hourmin`, and `date` with it, is not the clock of the impression but of its report: up to three hours after `time_ms`,
with a delay that goes with what the user did. Features of the time therefore come from `time_ms`, in China's time. And
as `date` turns some minutes before midnight, the files of two days overlap in `time_ms`, by up to two hours.
"""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from data.discovery.schema import Column
from data.errors import DataError, one_line
from data.importers.kuairand_history import HISTORY_COLUMNS, history_features
from data.storage.writer import staged_directory, write_parquet, write_schema

OFFICIAL = "take the files of the official KuaiRand-Pure release"
USERS_FILE = "user_features_pure.csv"
VIDEOS_FILE = "video_features_basic_pure.csv"

CHINA_OFFSET_MS = 8 * 3600 * 1000  # UTC+8, no summer time
UNKNOWN_CODE = -124  # how the release writes an unknown flag

LIST = "list<element: int64>"
LOG_COLUMNS = (
    Column("user_id", "int64", "feature", "The user who saw the video."),
    Column("video_id", "int64", "feature", "The video that was shown."),
    Column("date", "int64", "time", "Day of the report as yyyymmdd; train and test are split by it."),
    Column("hourmin", "int64", "time", "Hour of the report as hhmm, known after the outcome; use `hour`."),
    Column("time_ms", "int64", "time", "When the video was shown: Unix time in milliseconds."),
    Column("is_click", "int64", "label", "1 if the user clicked the video."),
    Column("is_like", "int64", "label", "1 if the user liked the video."),
    Column("is_follow", "int64", "label", "1 if the user followed the author."),
    Column("is_comment", "int64", "label", "1 if the user commented on the video."),
    Column("is_forward", "int64", "label", "1 if the user forwarded the video."),
    Column("is_hate", "int64", "label", "1 if the user asked for fewer videos like this one."),
    Column("long_view", "int64", "label", "1 if played to its end, or for 18 s where it is longer than that."),
    Column("play_time_ms", "int64", "label", "How long the user played the video, in milliseconds."),
    Column("duration_ms", "float", "feature", "Length of the video in milliseconds."),
    Column("profile_stay_time", "int64", "label", "How long the user stayed on the author's profile, in milliseconds."),
    Column("comment_stay_time", "int64", "label", "How long the user stayed in the comments, in milliseconds."),
    Column("is_profile_enter", "int64", "label", "1 if the user opened the author's profile."),
    Column("is_rand", "int64", "feature", "1 if the video was put there at random instead of being recommended."),
    Column("tab", "int64", "feature", "The page of the app that showed the video."),
)
DERIVED_COLUMNS = (
    Column("play_time_log1p", "float", "label", "log(1 + seconds played)."),
    Column("hour", "int64", "feature", "Hour of time_ms in China, 0 to 23."),
    Column("weekday", "int64", "feature", "Day of the week of time_ms in China, 0 is Monday."),
    Column("video_age_days", "float", "feature", "Days from the video's upload to time_ms, by the calendar of China."),
)
USER_COLUMNS = (
    Column("user_active_degree", "string", "feature", "How active the user is: full_active, high_active …"),
    Column("is_lowactive_period", "int64", "feature", "1 if the user is in a less active period."),
    Column("is_live_streamer", "int64", "feature", "1 if the user streams live; null where unknown (-124)."),
    Column("is_video_author", "int64", "feature", "1 if the user has uploaded videos."),
    Column("follow_user_num", "float", "feature", "How many users the user follows."),
    Column("follow_user_num_range", "string", "feature", "follow_user_num as a range."),
    Column("fans_user_num", "float", "feature", "How many users follow the user."),
    Column("fans_user_num_range", "string", "feature", "fans_user_num as a range."),
    Column("friend_user_num", "float", "feature", "How many friends the user has."),
    Column("friend_user_num_range", "string", "feature", "friend_user_num as a range."),
    Column("register_days", "float", "feature", "Days since the user registered."),
    Column("register_days_range", "string", "feature", "register_days as a range."),
    *(Column(f"onehot_feat{i}", "int64", "feature", f"Anonymised user feature {i}, a code.") for i in range(18)),
)
VIDEO_COLUMNS = (
    Column("author_id", "int64", "feature", "The user who uploaded the video."),
    Column("video_type", "string", "feature", "NORMAL, AD or UNKNOWN."),
    Column("upload_dt", "string", "feature", "Day of the upload as yyyy-mm-dd."),
    Column("upload_type", "string", "feature", "How the video was made and uploaded."),
    Column("visible_status", "int64", "feature", "Code of who may see the video."),
    Column("video_duration", "float", "feature", "Length of the video in milliseconds, null where not given."),
    Column("server_width", "float", "feature", "Width of the video in pixels."),
    Column("server_height", "float", "feature", "Height of the video in pixels."),
    Column("music_id", "int64", "feature", "The background music."),
    Column("music_type", "int64", "feature", "Code of the kind of music."),
    Column("tag", LIST, "feature", "Topics of the video; empty where it has none."),
)
COLUMNS = LOG_COLUMNS + DERIVED_COLUMNS + USER_COLUMNS + VIDEO_COLUMNS + HISTORY_COLUMNS

TYPES = {
    "int64": pa.int64(),
    "float": pa.float32(),
    "string": pa.string(),
    LIST: pa.list_(pa.field("element", pa.int64())),
}
SCHEMA = pa.schema([(column.name, TYPES[column.type]) for column in COLUMNS])
BINARY = ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "is_profile_enter")
# The feature files write whole numbers as 1 or 1.0; a decimal without fraction takes both exactly and refuses 1.5.
CSV_TYPES = {"int64": pa.decimal128(18, 0), "float": pa.float32(), "string": pa.string(), LIST: pa.string()}


@dataclass(frozen=True)
class ImportSummary:
    """What an import read and wrote."""

    rows_read: int
    duplicates_dropped: int
    train_rows: int
    test_rows: int
    train_days: tuple[int, ...]
    """yyyymmdd, ascending."""
    test_days: tuple[int, ...]
    columns: tuple[Column, ...]


def import_kuairand(source: Path, out: Path, test_days: int = 2, include_random: bool = False) -> ImportSummary:
    """Write the dataset in `source` (or `source`/data, as in the official archive) to `out`/train and `out`/test.

    The last `test_days` dates are the test set. The logs of random exposure (`log_random_*.csv`) are left out unless
    asked for. Raises DataError if a file, a column or a value is not as it should be; nothing is written then.
    """
    folder = _locate(source)
    with staged_directory(out) as staged:
        log = _read_logs(folder, include_random)
        rows = _drop_repeats(log)
        train, test = _split_days(rows, test_days, folder)
        users = _read_users(folder / USERS_FILE)
        videos = _read_videos(folder / VIDEOS_FILE)
        table = _join(rows, users, videos, train)
        columns = tuple(_with_cardinality(column, table[column.name]) for column in COLUMNS)
        train_rows = _write_days(staged / "train", table, train)
        test_rows = _write_days(staged / "test", table, test)
        write_schema(staged, columns)

    repeats = log.num_rows - rows.num_rows
    return ImportSummary(log.num_rows, repeats, train_rows, test_rows, train, test, columns)


def _locate(source: Path) -> Path:
    """The folder that holds the files; DataError naming the first that is missing."""
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; give the one that holds the unpacked KuaiRand-Pure release")

    folder = source if any(source.glob("log_*.csv")) else source / "data"
    if not any(folder.glob("log_*.csv")):
        folder = source

    for pattern in ("log_standard_*.csv", USERS_FILE, VIDEOS_FILE):
        if not any(folder.glob(pattern)):
            raise DataError(f"{folder / pattern}: no such file; {OFFICIAL}")

    return folder


def _read_logs(folder: Path, include_random: bool) -> pa.Table:
    """All rows, in the order of the files' names."""
    paths = [*folder.glob("log_standard_*.csv"), *(folder.glob("log_random_*.csv") if include_random else ())]
    return pa.concat_tables(_read_log(path) for path in sorted(paths))


def _read_log(path: Path) -> pa.Table:
    log = _read_csv(path, {column.name: pa.int64() for column in LOG_COLUMNS}, null_values=[])
    for name in BINARY:
        is_label = pc.is_in(log[name], value_set=pa.array([0, 1]))
        wrong = pc.filter(log[name], pc.invert(is_label))
        if len(wrong):
            raise DataError(f"{path}: column {name!r} holds {wrong[0]}, but a label is 0 or 1; {OFFICIAL}")

    return log


def _read_users(path: Path) -> pa.Table:
    return _read_features(path, "user_id", {column.name: CSV_TYPES[column.type] for column in USER_COLUMNS})


def _read_videos(path: Path) -> pa.Table:
    types = {column.name: CSV_TYPES[column.type] for column in VIDEO_COLUMNS}
    types["upload_dt"] = pa.date32()
    table = _read_features(path, "video_id", types)
    with _explained(path, "column 'tag': "):
        tags = _parse_tags(table["tag"])
    return table.set_column(table.schema.get_field_index("tag"), "tag", tags)


def _parse_tags(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """'12,62' → [12, 62]; null → []."""
    lists = pc.split_pattern(texts, ",").cast(TYPES[LIST])
    return pc.coalesce(lists, pa.scalar([], TYPES[LIST]))


def _read_features(path: Path, key: str, types: dict[str, pa.DataType]) -> pa.Table:
    """One row per key; codes as int64, null where the file has nothing or says that it does not know."""
    table = _read_csv(path, {key: pa.int64(), **types}, null_values=[""])
    counts = table[key].value_counts()
    repeated = pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise DataError(f"{path}: {key} {repeated[0]} is in it more than once; {OFFICIAL}")
    return pa.table({name: _as_code(table[name]) for name in table.column_names})


def _as_code(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decimals → int64 without the code for 'unknown'; anything else as it is."""
    if not pa.types.is_decimal(values.type):
        return values
    codes = values.cast(pa.int64())
    return pc.if_else(pc.equal(codes, UNKNOWN_CODE), None, codes)


def _read_csv(path: Path, types: dict[str, pa.DataType], null_values: list[str]) -> pa.Table:
    """The columns named in `types`, in that order; on one thread, so that an error names its row."""
    with _explained(path):
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = next(csv.reader(file), [])
        missing = [name for name in types if name not in header]
        if missing:
            raise DataError(f"{path}: column {missing[0]!r} is missing; {OFFICIAL}")
        convert = arrow_csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=null_values, strings_can_be_null=True
        )
        return arrow_csv.read_csv(path, arrow_csv.ReadOptions(use_threads=False), convert_options=convert)


@contextmanager
def _explained(path: Path, where: str = "") -> Iterator[None]:
    """What cannot be read or parsed becomes a DataError that names the file."""
    try:
        yield
    except (pa.ArrowException, csv.Error, OSError) as error:
        raise DataError(f"{path}: {where}{one_line(error)}; {OFFICIAL}") from error


def _drop_repeats(log: pa.Table) -> pa.Table:
    """The distinct rows by time; rows of the same millisecond as in the files."""
    numbered = log.append_column("row", pa.array(np.arange(log.num_rows)))
    first = numbered.group_by(log.column_names).aggregate([("row", "min")])
    return first.sort_by([("time_ms", "ascending"), ("row_min", "ascending")]).select(log.column_names)


def _split_days(rows: pa.Table, test_days: int, folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dates of train and test, ascending."""
    days = sorted(pc.unique(rows["date"]).to_pylist())
    if not 0 < test_days < len(days):
        rule = f"it must be at least 1 and below the number of days in the logs, which is {len(days)}"
        raise DataError(f"{folder}: test_days is {test_days}; {rule}")
    return tuple(days[:-test_days]), tuple(days[-test_days:])


def _join(rows: pa.Table, users: pa.Table, videos: pa.Table, train_days: tuple[int, ...]) -> pa.Table:
    """Every column of SCHEMA, in the order of `rows`; nulls where a user or video has no features."""
    users = _look_up(users, rows["user_id"], "user_id")
    videos = _look_up(videos, rows["video_id"], "video_id")
    sources: dict[str, pa.ChunkedArray] = {}

    for table in (users, videos, rows):
        sources |= {column: table[column] for column in table.column_names}

    sources |= _derive(rows, videos["upload_dt"])
    sources |= history_features(pa.table(sources), train_days)
    no_tags = pa.scalar([], TYPES[LIST])
    sources["tag"] = pc.coalesce(sources["tag"], no_tags)
    arrays = {field.name: sources[field.name].cast(field.type) for field in SCHEMA}

    return pa.table(arrays, SCHEMA)


def _look_up(features: pa.Table, ids: pa.ChunkedArray, key: str) -> pa.Table:
    """One row of features per id. Unlike `Table.join` this keeps the order and takes lists."""
    return features.take(pc.index_in(ids, value_set=features[key].combine_chunks()))


def _derive(rows: pa.Table, upload_dates: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    local_time = pc.add(rows["time_ms"], CHINA_OFFSET_MS).cast(pa.timestamp("ms"))
    seconds_played = pc.divide(rows["play_time_ms"].cast(pa.float64()), 1000.0)
    return {
        "play_time_log1p": pc.log1p(seconds_played),
        "hour": pc.hour(local_time),
        "weekday": pc.day_of_week(local_time),
        "video_age_days": pc.days_between(upload_dates, local_time.cast(pa.date32())),
    }


def _with_cardinality(column: Column, values: pa.ChunkedArray) -> Column:
    if column.role != "feature" or column.type not in ("int64", LIST):
        return column
    ids = pc.list_flatten(values) if column.type == LIST else values
    largest = pc.max(ids).as_py()
    return replace(column, cardinality=None if largest is None else largest + 1)


def _write_days(folder: Path, table: pa.Table, days: tuple[int, ...]) -> int:
    """One file per day; returns the rows of all."""
    num_rows = 0
    for day in days:
        of_day = table.filter(pc.equal(table["date"], day))
        num_rows += write_parquet(folder / f"{day}.parquet", SCHEMA, [of_day])
    return num_rows
