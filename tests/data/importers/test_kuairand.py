import csv
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.importers.kuairand import COLUMNS, LOG_COLUMNS, USER_COLUMNS, VIDEO_COLUMNS, ImportSummary, import_kuairand
from data.importers.kuairand_history import ENTITIES, HISTORY_COLUMNS, STATISTICS, Entity
from data.manifest import read_schema

REAL = Path(__file__).parents[3].parent / "shared/data/kuairand_pure"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the KuaiRand-Pure files are not beside the project")

FIRST_LOG = "log_standard_4_08_to_4_21_pure.csv"
SECOND_LOG = "log_standard_4_22_to_5_08_pure.csv"
RANDOM_LOG = "log_random_4_22_to_5_08_pure.csv"
USERS = "user_features_pure.csv"
VIDEOS = "video_features_basic_pure.csv"

OUTCOMES = {
    *("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms"),
    *("profile_stay_time", "comment_stay_time", "is_profile_enter"),
}
NOON = 1_650_859_200_000  # 2022-04-25 12:00 in China, a Monday
DAY = 86_400_000


def impression(user: int, video: int, day: int, time_ms: int, **values: object) -> dict[str, object]:
    """A log row with all outcomes 0; `day` of April 2022."""
    row = dict.fromkeys((column.name for column in LOG_COLUMNS), 0)
    return row | {"user_id": user, "video_id": video, "date": 20220400 + day, "time_ms": time_ms} | values


def user(user_id: int, **values: object) -> dict[str, object]:
    row: dict[str, object] = {column.name: 0 for column in USER_COLUMNS}
    row |= {"user_active_degree": "full_active", "is_live_streamer": -124, "fans_user_num_range": "[1,10)"}
    return {"user_id": user_id} | row | {"onehot_feat4": "1.0", "onehot_feat12": ""} | values


def video(video_id: int, **values: object) -> dict[str, object]:
    row: dict[str, object] = {column.name: "7.0" for column in VIDEO_COLUMNS}
    row |= {"author_id": 1001, "video_type": "NORMAL", "upload_dt": "2022-04-10", "upload_type": "Web"}
    return {"video_id": video_id} | row | {"music_id": 9_155_697_141, "music_type": "", "tag": "12,62"} | values


REPEATED = impression(1, 11, 25, NOON, is_click=1, long_view=1, play_time_ms=61_802, duration_ms=49_866, tab=4)
LOG_ROWS = {
    FIRST_LOG: [
        impression(2, 12, 25, NOON + 5),
        REPEATED,
        impression(2, 11, 25, NOON + 5),  # the millisecond of the first row, after it in the file
        REPEATED,
    ],
    SECOND_LOG: [
        impression(3, 13, 27, NOON + 2 * DAY),  # a user and a video without features
        impression(1, 12, 26, NOON + DAY - 13 * 3_600_000, hourmin=0),  # shown on the 25th at 23:00
        REPEATED,
        REPEATED | {"is_like": 1},  # another outcome: no repeat
    ],
    RANDOM_LOG: [impression(1, 11, 28, NOON + 3 * DAY, is_rand=1)],
}


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The files as in the official archive: below data/."""
    folder = tmp_path / "source" / "data"
    folder.mkdir(parents=True)
    for name, rows in LOG_ROWS.items():
        write_csv(folder / name, rows)
    write_csv(folder / USERS, [user(2, is_live_streamer=1, fans_user_num=150), user(1)])
    write_csv(folder / VIDEOS, [video(12, tag="", upload_dt=""), video(11)])
    return folder.parent


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_summary_and_files(source: Path, tmp_path: Path) -> None:
    summary = import_kuairand(source, tmp_path / "out", test_days=1)
    assert (summary.rows_read, summary.duplicates_dropped) == (8, 2)
    assert (summary.train_rows, summary.train_days) == (5, (20220425, 20220426))
    assert (summary.test_rows, summary.test_days) == (1, (20220427,))
    assert [column.name for column in summary.columns] == [column.name for column in COLUMNS]
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert files == ["schema.json", "test/20220427.parquet", "train/20220425.parquet", "train/20220426.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_rows_are_in_time_order_and_ties_in_file_order(source: Path, tmp_path: Path) -> None:
    import_kuairand(source, tmp_path / "out", test_days=1)
    found = [(row["user_id"], row["video_id"], row["is_like"]) for row in read_rows(tmp_path / "out" / "train")]
    assert found == [(1, 11, 0), (1, 11, 1), (2, 12, 0), (2, 11, 0), (1, 12, 0)]


def test_values_are_joined_and_derived(source: Path, tmp_path: Path) -> None:
    import_kuairand(source, tmp_path / "out", test_days=1)
    row = read_rows(tmp_path / "out" / "train")[0]
    expected = REPEATED | {"hour": 12, "weekday": 0, "video_age_days": 15.0}
    expected |= dict.fromkeys((f"onehot_feat{index}" for index in range(18)), 0)
    expected |= {"user_active_degree": "full_active", "is_live_streamer": None, "fans_user_num_range": "[1,10)"}
    expected |= {"onehot_feat4": 1, "onehot_feat12": None, "author_id": 1001, "music_id": 9_155_697_141}
    expected |= {"upload_dt": "2022-04-10", "visible_status": 7, "server_width": 7.0}
    expected |= {"music_type": None, "tag": [12, 62]}
    assert {name: row[name] for name in expected} == expected
    assert row["play_time_log1p"] == pytest.approx(math.log(1 + 61.802), rel=1e-6)


def test_the_clock_is_the_impressions_not_the_reports(source: Path, tmp_path: Path) -> None:
    import_kuairand(source, tmp_path / "out", test_days=1)
    row = read_rows(tmp_path / "out" / "train")[-1]
    assert (row["date"], row["hour"], row["weekday"]) == (20220426, 23, 0)
    assert (row["video_age_days"], row["upload_dt"], row["tag"]) == (None, None, [])


def test_an_unknown_user_or_video_has_nulls(source: Path, tmp_path: Path) -> None:
    import_kuairand(source, tmp_path / "out", test_days=1)
    (row,) = read_rows(tmp_path / "out" / "test")
    assert (row["user_id"], row["video_id"], row["tag"]) == (3, 13, [])
    joined = {column.name for column in (*USER_COLUMNS, *VIDEO_COLUMNS)} - {"tag"} | {"video_age_days"}
    assert {row[name] for name in joined} == {None}
    assert (row["user_seen"], row["video_seen"], row["author_seen"]) == (0.0, 0.0, 0.0)
    # 2 of the 5 impressions of the training days were clicked; the author is not known.
    assert (row["user_click_per_1000"], row["author_click_per_1000"]) == (400.0, None)


def test_history_is_of_earlier_dates_and_without_repeats(source: Path, tmp_path: Path) -> None:
    import_kuairand(source, tmp_path / "out", test_days=1)
    *first_day, row = read_rows(tmp_path / "out" / "train")
    assert {old["user_seen"] for old in first_day} == {0.0}
    assert {old["user_click_per_1000"] for old in first_day} == {None}
    # Shown on the 25th like the others, but of the 26th: user 1 was seen twice before, each time with a click.
    assert (row["user_seen"], row["video_seen"], row["author_seen"]) == (2.0, 1.0, 4.0)
    assert row["user_click_per_1000"] == pytest.approx(1000 * (2 + 10 * 2 / 4) / (2 + 10))
    assert row["author_like_per_1000"] == pytest.approx(1000 * (1 + 20 * 1 / 4) / (4 + 20))


def test_outcomes_of_the_test_days_reach_no_history(source: Path, tmp_path: Path) -> None:
    import_kuairand(source, tmp_path / "one", test_days=2)
    later = impression(1, 12, 26, NOON + DAY, is_click=1, is_like=1, is_profile_enter=1, play_time_ms=9_000)
    write_csv(source / "data" / SECOND_LOG, [*LOG_ROWS[SECOND_LOG], later])
    import_kuairand(source, tmp_path / "two", test_days=2)
    one, two = (read_rows(tmp_path / name / "test") for name in ("one", "two"))
    assert len(two) == len(one) + 1
    assert histories(one) == histories([row for row in two if not row["is_profile_enter"]])
    assert histories(read_rows(tmp_path / "one" / "train")) == histories(read_rows(tmp_path / "two" / "train"))


def histories(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{column.name: row[column.name] for column in HISTORY_COLUMNS} for row in rows]


def test_schema_says_what_each_column_is(source: Path, tmp_path: Path) -> None:
    summary = import_kuairand(source, tmp_path / "out", test_days=1)
    manifest = read_manifest(str(tmp_path / "out" / "train"), cache=None)
    columns = read_schema(manifest)
    assert tuple(columns.values()) == summary.columns
    assert {name: column.type for name, column in columns.items()} == {f.name: str(f.type) for f in manifest.schema}
    assert {name for name, column in columns.items() if column.role == "label"} == {*OUTCOMES, "play_time_log1p"}
    assert {name for name, column in columns.items() if column.role == "time"} == {"date", "hourmin", "time_ms"}
    assert all(column.description.endswith(".") or "…" in column.description for column in columns.values())
    sizes = {name: columns[name].cardinality for name in ("user_id", "video_id", "tab", "tag", "onehot_feat4", "hour")}
    assert sizes == {"user_id": 4, "video_id": 14, "tab": 5, "tag": 63, "onehot_feat4": 2, "hour": 24}
    assert columns["duration_ms"].cardinality is columns["video_type"].cardinality is None
    assert columns["onehot_feat12"].cardinality is None


def test_random_exposure_is_left_out_unless_asked_for(source: Path, tmp_path: Path) -> None:
    summary = import_kuairand(source, tmp_path / "out", test_days=1, include_random=True)
    assert (summary.rows_read, summary.test_days) == (9, (20220428,))
    (row,) = read_rows(tmp_path / "out" / "test")
    assert (row["is_rand"], row["user_seen"]) == (1, 3.0)


def test_random_exposure_is_not_counted_in_the_history(source: Path, tmp_path: Path) -> None:
    write_csv(source / "data" / RANDOM_LOG, [impression(1, 11, 25, NOON + 9, is_rand=1, is_click=1)])
    import_kuairand(source, tmp_path / "one", test_days=1)
    import_kuairand(source, tmp_path / "two", test_days=1, include_random=True)
    one, two = (read_rows(tmp_path / name / "train") for name in ("one", "two"))
    assert len(two) == len(one) + 1
    assert histories(one) == histories([row for row in two if not row["is_rand"]])


def test_the_files_may_lie_in_the_folder_itself_and_two_imports_are_equal(source: Path, tmp_path: Path) -> None:
    import_kuairand(source, tmp_path / "one")
    import_kuairand(source / "data", tmp_path / "two")
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


Damage = Callable[[Path], None]


def without_file(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def without_column(name: str, column: str) -> Damage:
    def damage(folder: Path) -> None:
        with (folder / name).open() as file:
            rows: list[dict[str, object]] = [{**row} for row in csv.DictReader(file)]
        write_csv(folder / name, [{key: value for key, value in row.items() if key != column} for row in rows])

    return damage


def with_rows(name: str, *rows: dict[str, object]) -> Damage:
    return lambda folder: write_csv(folder / name, list(rows))


def with_text(name: str, text: str) -> Damage:
    def damage(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(text)

    return damage


def without_standard_logs(folder: Path) -> None:
    for name in (FIRST_LOG, SECOND_LOG):
        (folder / name).unlink()


def emptied(folder: Path) -> None:
    (folder / USERS).write_bytes(b"")


DAMAGES = {
    "no logs": (without_standard_logs, r"data/log_standard_\*\.csv: no such file; .* KuaiRand-Pure"),
    "no users": (without_file(USERS), r"data/user_features_pure\.csv: no such file; .* KuaiRand-Pure"),
    "no videos": (without_file(VIDEOS), r"data/video_features_basic_pure\.csv: no such file; .* KuaiRand-Pure"),
    "log column": (without_column(SECOND_LOG, "is_like"), rf"{SECOND_LOG}: column 'is_like' is missing; "),
    "user column": (without_column(USERS, "onehot_feat3"), rf"{USERS}: column 'onehot_feat3' is missing; "),
    "video key": (without_column(VIDEOS, "video_id"), rf"{VIDEOS}: column 'video_id' is missing; "),
    "empty file": (emptied, rf"{USERS}: column 'user_id' is missing; "),
    "short row": (
        with_text(FIRST_LOG, "1,2,3\n"),
        rf"{FIRST_LOG}: CSV parse error: Row #6: Expected 19 columns, got 3",
    ),
    "word": (with_rows(FIRST_LOG, impression(1, 1, 25, NOON, tab="a")), rf"{FIRST_LOG}: .*Row #2: .*invalid value 'a'"),
    "gap": (with_rows(FIRST_LOG, impression(1, 1, 25, NOON, tab="")), rf"{FIRST_LOG}: .*Row #2: .*invalid value ''"),
    "label": (
        with_rows(SECOND_LOG, impression(1, 1, 25, NOON, long_view=2)),
        rf"{SECOND_LOG}: column 'long_view' holds 2, but a label is 0 or 1; ",
    ),
    "fraction": (with_rows(USERS, user(1, onehot_feat0="1.5")), rf"{USERS}: .*Row #2: .*"),
    "upload": (with_rows(VIDEOS, video(11, upload_dt="soon")), rf"{VIDEOS}: .*Row #2: .*invalid value 'soon'"),
    "tag": (with_rows(VIDEOS, video(11, tag="3,x")), rf"{VIDEOS}: column 'tag': .*'x'"),
    "repeated key": (with_rows(USERS, user(7), user(1), user(7)), rf"{USERS}: user_id 7 is in it more than once; "),
    "one day": (
        with_rows(SECOND_LOG, impression(1, 1, 25, NOON)),
        r"data: test_days is 1; it must be at least 1 and below the number of days in the logs, which is 1$",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_and_nothing_is_left(source: Path, tmp_path: Path, damage: Damage, message: str) -> None:
    damage(source / "data")
    with pytest.raises(DataError, match=message) as raised:
        import_kuairand(source, tmp_path / "new" / "out", test_days=1)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("test_days", [-1, 0, 3, 4])
def test_test_days_must_leave_a_day_to_train_on(source: Path, tmp_path: Path, test_days: int) -> None:
    with pytest.raises(DataError, match=rf"test_days is {test_days}; it must be .* which is 3$"):
        import_kuairand(source, tmp_path / "out", test_days)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder; .*KuaiRand-Pure"):
        import_kuairand(tmp_path / "nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_with_something_in_it_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("theirs")
    with pytest.raises(DataError, match="out exists and is not empty; choose another folder or remove it"):
        import_kuairand(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("out*")) == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "theirs"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImportSummary, Path]:
    out = tmp_path_factory.mktemp("kuairand") / "out"
    return import_kuairand(REAL, out), out


@needs_real_data
def test_real_counts(imported: tuple[ImportSummary, Path]) -> None:
    summary, out = imported
    assert (summary.rows_read, summary.duplicates_dropped) == (198_895, 4_931)
    assert (summary.train_rows, summary.test_rows) == (167_281, 26_683)
    assert summary.test_days == (20220505, 20220506)
    assert read_manifest(str(out / "test"), cache=None).num_rows == 26_683
    assert read_manifest(str(out / "train"), cache=None).num_rows == 167_281


@needs_real_data
@pytest.mark.parametrize(
    ("label", "positives", "published_rate"),
    [
        ("is_click", 87_020, 0.442),
        ("long_view", 61_283, 0.311),
        ("is_profile_enter", 3_638, 0.0185),
        ("is_like", 3_366, 0.0171),
        ("is_comment", 499, 0.0025),
        ("is_follow", 249, 0.0013),
        ("is_forward", 157, 0.0009),
        ("is_hate", 168, 0.0008),
    ],
)
def test_real_positives(
    imported: tuple[ImportSummary, Path], label: str, positives: int, published_rate: float
) -> None:
    labels = read_both(imported[1])[label]
    assert pc.sum(labels).as_py() == positives
    # The published rates are rounded and were not counted on exactly these rows.
    assert positives / len(labels) == pytest.approx(published_rate, rel=0.11)


@needs_real_data
def test_real_rows_as_the_csv_module_reads_them(imported: tuple[ImportSummary, Path]) -> None:
    table = read_both(imported[1])
    columns = [table[column.name].to_pylist() for column in LOG_COLUMNS]
    assert list(zip(*columns, strict=True)) == distinct_rows_by_time(REAL / SECOND_LOG)
    users, videos = read_by_key(REAL / USERS, "user_id"), read_by_key(REAL / VIDEOS, "video_id")
    for row in table.take(list(range(0, table.num_rows, 997))).to_pylist():
        features = parse(videos[row["video_id"]])
        assert {column.name: row[column.name] for column in VIDEO_COLUMNS} == features
        assert {column.name: row[column.name] for column in USER_COLUMNS} == parse(users[row["user_id"]])
        assert_derived(row, features)


@needs_real_data
def test_real_history_by_filtering_the_earlier_days(imported: tuple[ImportSummary, Path]) -> None:
    table = read_both(imported[1])
    train = table.filter(pc.is_in(table["date"], value_set=pa.array(imported[0].train_days)))
    sample = table.take(list(range(0, table.num_rows, 4_999))).to_pylist()
    assert len({row["date"] for row in sample}) == 12
    for row in sample:
        earlier = train.filter(pc.less(train["date"], row["date"]))
        for entity in ENTITIES:
            assert_history(row, earlier, entity)


@needs_real_data
def test_real_history_is_complete_but_for_the_first_day(imported: tuple[ImportSummary, Path]) -> None:
    table = read_both(imported[1])
    first_day = pc.equal(table["date"], imported[0].train_days[0])
    later = table.filter(pc.invert(first_day))
    assert {
        column.name: later[column.name].null_count for column in HISTORY_COLUMNS if later[column.name].null_count
    } == {}
    rates = [f"{entity.name}_{statistic.suffix}" for entity in ENTITIES for statistic in STATISTICS]
    assert {table.filter(first_day)[name].null_count for name in rates} == {pc.sum(first_day).as_py()}


def assert_history(row: dict[str, Any], earlier: pa.Table, entity: Entity) -> None:
    own = earlier.filter(pc.equal(earlier[entity.id_column], row[entity.id_column]))
    assert row[f"{entity.name}_seen"] == own.num_rows
    for statistic in STATISTICS:
        found = row[f"{entity.name}_{statistic.suffix}"]
        if earlier.num_rows == 0:
            assert found is None
            continue
        everyones = pc.mean(earlier[statistic.outcome]).as_py()
        total = pc.sum(own[statistic.outcome]).as_py() or 0
        prior = entity.prior_impressions
        mean = (total + prior * everyones) / (own.num_rows + prior)
        assert found == pytest.approx(mean * statistic.factor, rel=1e-5)


def read_both(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(out / "train"), pq.read_table(out / "test")])


def distinct_rows_by_time(path: Path) -> list[tuple[int, ...]]:
    """By date, and by time within it."""
    with path.open(newline="") as file:
        reader = csv.reader(file)
        assert next(reader) == [column.name for column in LOG_COLUMNS]
        distinct = dict.fromkeys(tuple(map(int, row)) for row in reader)
    return sorted(distinct, key=lambda row: (row[2], row[4]))


def read_by_key(path: Path, key: str) -> dict[int, dict[str, str]]:
    with path.open(newline="") as file:
        return {int(row.pop(key)): row for row in csv.DictReader(file)}


def parse(texts: dict[str, str]) -> dict[str, object]:
    return {column.name: parse_value(texts[column.name], column.type) for column in COLUMNS if column.name in texts}


def parse_value(text: str, kind: str) -> object:
    if kind.startswith("list"):
        return [int(part) for part in text.split(",") if part]
    if text in ("", "-124"):
        return None
    return text if kind == "string" else float(text)


def assert_derived(row: dict[str, Any], features: dict[str, object]) -> None:
    moment = datetime.fromtimestamp(row["time_ms"] / 1000, UTC) + timedelta(hours=8)
    assert (row["hour"], row["weekday"]) == (moment.hour, moment.weekday())
    assert row["video_age_days"] == (moment.date() - date.fromisoformat(str(features["upload_dt"]))).days
    assert row["play_time_log1p"] == pytest.approx(math.log1p(row["play_time_ms"] / 1000), rel=1e-6)
