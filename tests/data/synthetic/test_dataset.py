"""The synthetic log: reproducible to the byte, honest about its truth, and related as the task groups say."""

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data.synthetic.dataset
from data.discovery.schema import parse_schema
from data.errors import DataError
from data.storage.writer import ROW_GROUP_ROWS
from data.synthetic.dataset import ROWS_PER_FILE, SynthSummary, dataset_columns, synthesise
from data.synthetic.log import DAY_MS
from data.synthetic.tasks import TASK_GROUPS
from data.synthetic.world import Doubles
from trainer.process.signals import CLEANING_SECONDS

TRAIN_ROWS, TEST_ROWS = ROWS_PER_FILE + 20_000, 50_000
SMALL_ROWS = 60_000
BINARY = ("click", "long_view", "like", "hate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("synth")


@pytest.fixture(scope="module")
def summary(folder: Path) -> SynthSummary:
    return synthesise(folder / "five", TRAIN_ROWS, TEST_ROWS, "five", seed=3, processes=1)


@pytest.fixture(scope="module")
def five(folder: Path, summary: SynthSummary) -> pa.Table:
    assert summary.files == 3
    return pa.concat_tables([pq.read_table(folder / "five" / split) for split in ("train", "test")])


@pytest.fixture(scope="module")
def small(folder: Path) -> dict[str, pa.Table]:
    """A table for each group but 'five', of the same seed."""
    tables = {}
    for group in ("engagement-consumption", "two-consumption"):
        synthesise(folder / group, SMALL_ROWS, 0, group, seed=3)
        tables[group] = pq.read_table(folder / group / "train")
    return tables


def column(table: pa.Table, name: str) -> Doubles:
    return table[name].to_numpy().astype(np.float64)


def logits(table: pa.Table, task: str) -> Doubles:
    oracle = column(table, f"oracle_{task}")
    return np.log(oracle / (1 - oracle))


def normalized_entropy(table: pa.Table, task: str) -> float:
    label, oracle = column(table, task), column(table, f"oracle_{task}")
    rate = label.mean()
    loss = -np.log(np.where(label == 1, oracle, 1 - oracle)).mean()
    return float(loss / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("summary")
def test_two_processes_write_the_same_bytes(folder: Path) -> None:
    rows: list[int] = []
    synthesise(folder / "again", TRAIN_ROWS, TEST_ROWS, "five", seed=3, processes=2, progress=rows.append)
    assert contents(folder / "again") == contents(folder / "five")
    assert rows == [ROWS_PER_FILE, 20_000, TEST_ROWS]


def test_another_seed_is_another_world(tmp_path: Path, small: dict[str, pa.Table]) -> None:
    synthesise(tmp_path / "out", 2_000, 0, "two-consumption", seed=4)
    other = pq.read_table(tmp_path / "out" / "train")
    for name in ("user_id", "duration_s", "oracle_click", "timestamp"):
        assert not other[name].equals(small["two-consumption"][name][:2_000])


def test_a_full_file_does_not_depend_on_the_size_of_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.synthetic.dataset, "ROWS_PER_FILE", ROW_GROUP_ROWS)
    for rows in (ROW_GROUP_ROWS, ROW_GROUP_ROWS + 5):
        synthesise(tmp_path / str(rows), rows, 0, "two-consumption", processes=1)
    first, second = (contents(tmp_path / str(rows)) for rows in (ROW_GROUP_ROWS, ROW_GROUP_ROWS + 5))
    assert first["train/part-00000.parquet"] == second["train/part-00000.parquet"]


def test_validation_rows_lie_between_and_change_no_other(tmp_path: Path) -> None:
    without, with_rows = tmp_path / "without", tmp_path / "with"
    synthesise(without, 1_000, 500, "two-consumption", processes=1)
    summary = synthesise(with_rows, 1_000, 500, "two-consumption", processes=1, validation_samples=300)
    assert summary.validation_rows == 300

    splits = {split: pq.read_table(with_rows / split) for split in ("train", "validation", "test")}
    assert splits["train"].equals(pq.read_table(without / "train"))
    assert splits["validation"]["row_id"].to_pylist() == list(range(1_000, 1_300))
    assert splits["test"]["click"].equals(pq.read_table(without / "test")["click"])
    assert not splits["validation"]["click"].equals(splits["test"]["click"][:300])


def test_groups_share_features_and_click(five: pa.Table, small: dict[str, pa.Table]) -> None:
    first, second = small.values()
    same = [name for name in first.column_names if "like" not in name or name.endswith("_rate")]
    assert first.select(same).equals(second.select(same))
    assert set(five.column_names) > set(same)


@given(st.integers(1, 3 * ROWS_PER_FILE), st.integers(0, 3 * ROWS_PER_FILE), st.integers(0, ROWS_PER_FILE + 1))
def test_plan_covers_every_row_once_in_order_of_time(samples: int, test_samples: int, validation: int) -> None:
    parts = data.synthetic.dataset._plan(samples, test_samples, validation)
    assert sum(part.rows for part in parts if part.split == "validation") == validation
    assert [part.day for part in parts] == list(range(len(parts)))
    assert [part.first_row for part in parts] == [sum(p.rows for p in parts[:i]) for i in range(len(parts))]
    assert sum(part.rows for part in parts if part.split == "train") == samples
    assert sum(part.rows for part in parts if part.split == "test") == test_samples
    assert all(0 < part.rows <= ROWS_PER_FILE for part in parts)


@pytest.mark.usefixtures("summary")
def test_files_and_row_groups(folder: Path) -> None:
    first, second = (pq.ParquetFile(folder / f"five/train/part-0000{i}.parquet").metadata for i in (0, 1))
    assert [first.row_group(i).num_rows for i in range(first.num_row_groups)] == [ROW_GROUP_ROWS] * 8
    assert second.num_rows == 20_000
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in (folder / "five/test").iterdir()) == TEST_ROWS


def test_rows_are_numbered_and_in_order_of_time(five: pa.Table) -> None:
    assert np.array_equal(column(five, "row_id"), np.arange(TRAIN_ROWS + TEST_ROWS))
    time = five["timestamp"].to_numpy()
    assert np.all(np.diff(time) > 0)
    assert np.array_equal(five["hour"].to_numpy(), time // 3_600_000 % 24)
    assert time[-1] - time[0] < 3 * DAY_MS


def test_schema_describes_every_column(folder: Path, five: pa.Table) -> None:
    schema = parse_schema((folder / "five/schema.json").read_text())
    assert list(schema) == five.column_names
    # Parquet calls the items of a list "element", which Arrow's equality of types does not mind
    types = {"int64": pa.int64(), "int8": pa.int8(), "float": pa.float32(), "list<item: int64>": pa.list_(pa.int64())}
    assert all(field.type == types[schema[field.name].type] for field in five.schema)
    roles = {name: entry.role for name, entry in schema.items() if entry.role != "feature"}
    labels = [task.name for task in TASK_GROUPS["five"]]
    assert roles == {"row_id": "key", "timestamp": "time"} | dict.fromkeys(labels, "label") | {
        f"oracle_{name}": "oracle" for name in labels
    }


def test_ids_stay_below_their_cardinality(five: pa.Table) -> None:
    for entry in dataset_columns("five"):
        if entry.cardinality is not None:
            values = five[entry.name].combine_chunks()
            ids = (values.flatten() if pa.types.is_list(values.type) else values).to_numpy()
            assert ids.min() >= 0, entry
            assert entry.cardinality / 2 < ids.max() + 1 <= entry.cardinality, entry


def test_lists_have_the_stated_lengths(five: pa.Table) -> None:
    recent, tags = (np.diff(five[name].combine_chunks().offsets.to_numpy()) for name in ("recent_videos", "tags"))
    assert (recent.min(), recent.max()) == (0, 20)
    assert (tags.min(), tags.max()) == (1, 5)
    assert 0.005 < (recent == 0).mean() < 0.1


def test_only_numbers_are_null_in_one_per_cent(five: pa.Table) -> None:
    for field in five.schema:
        nulls = five[field.name].null_count / five.num_rows
        is_number = pa.types.is_float32(field.type) and field.name not in labels_and_oracles()
        assert abs(nulls - 0.01) < 0.001 if is_number else nulls == 0, field.name


def labels_and_oracles() -> set[str]:
    return {entry.name for entry in dataset_columns("five") if entry.role in ("label", "oracle")}


@pytest.mark.parametrize("task", BINARY)
def test_labels_are_calibrated_to_the_oracle(five: pa.Table, task: str) -> None:
    label, oracle = column(five, task), column(five, f"oracle_{task}")
    order = np.argsort(oracle)
    for rows in (order, *np.array_split(order, 10)):
        deviation = np.sqrt((oracle[rows] * (1 - oracle[rows])).sum())
        assert abs(label[rows].sum() - oracle[rows].sum()) < 4 * deviation


@pytest.mark.parametrize(
    ("task", "rate", "tolerance"),
    [("click", 0.44, 0.02), ("long_view", 0.31, 0.02), ("like", 0.017, 0.1), ("hate", 0.0008, 0.3)],
)
def test_rates(five: pa.Table, summary: SynthSummary, task: str, rate: float, tolerance: float) -> None:
    assert column(five, task).mean() == pytest.approx(rate, rel=tolerance)
    train = five[:TRAIN_ROWS]
    assert next(t.rate for t in summary.tasks if t.name == task) == pytest.approx(column(train, task).mean())


@pytest.mark.parametrize(("task", "low", "high"), [("click", 0.75, 0.8), ("long_view", 0.75, 0.8), ("like", 0.7, 0.8)])
def test_oracle_ne_leaves_something_to_learn(five: pa.Table, task: str, low: float, high: float) -> None:
    assert low < normalized_entropy(five, task) < high


def test_watch_time_is_noise_around_its_oracle(five: pa.Table) -> None:
    label, oracle = column(five, "watch_time"), column(five, "oracle_watch_time")
    error = label - oracle
    assert label.min() >= 0
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))
    assert (error**2).mean() < 0.6 * label.var()


def test_world_records_what_the_truth_would_score(folder: Path, five: pa.Table, summary: SynthSummary) -> None:
    world = json.loads((folder / "five/world.json").read_text())
    test = five[TRAIN_ROWS:]
    tasks = {task["name"]: task for task in world["tasks"]}
    assert (world["seed"], world["group"], world["train_rows"]) == (3, "five", summary.train_rows)
    assert list(tasks) == [task.name for task in summary.tasks]
    for name in BINARY:
        assert tasks[name]["oracle_ne"] == pytest.approx(normalized_entropy(test, name))
        assert tasks[name]["oracle_mse"] is None
    watch_time = column(test, "watch_time")
    mse = ((watch_time - column(test, "oracle_watch_time")) ** 2).mean()
    assert tasks["watch_time"]["oracle_mse"] == pytest.approx(mse)
    assert tasks["watch_time"]["label_variance"] == pytest.approx(watch_time.var())
    assert [name for name, task in tasks.items() if task["auxiliary"]] == ["hate"]


def test_tasks_are_related_as_the_groups_say(five: pa.Table, small: dict[str, pa.Table]) -> None:
    weak = small["engagement-consumption"]
    strong = small["two-consumption"]
    weakly = np.corrcoef(logits(weak, "click"), logits(weak, "like"))[0, 1]
    strongly = np.corrcoef(logits(strong, "click"), logits(strong, "long_view"))[0, 1]
    assert 0.1 < weakly < 0.4 < 0.65 < strongly < 0.95
    assert column(strong, "click").mean() == pytest.approx(column(strong, "long_view").mean(), rel=0.03)
    for consumption in ("click", "long_view"):
        assert np.corrcoef(logits(five, "hate"), logits(five, consumption))[0, 1] < -0.2
        assert np.corrcoef(column(five, "oracle_watch_time"), logits(five, consumption))[0, 1] > 0.5


def test_without_a_test_set(folder: Path, small: dict[str, pa.Table]) -> None:
    assert not (folder / "two-consumption/test").exists()
    assert small["two-consumption"].num_rows == SMALL_ROWS
    world = json.loads((folder / "two-consumption/world.json").read_text())
    assert [task["oracle_ne"] for task in world["tasks"]] == [None, None]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": 0}, "samples = 0: "),
        ({"test_samples": -1}, "test samples = -1: "),
        ({"tasks": "six"}, "tasks = 'six' is unknown; choose one of engagement-consumption, "),
        ({"seed": -1}, "seed = -1: "),
        ({"processes": 0}, "processes = 0: "),
    ],
)
def test_wrong_arguments(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    arguments = {"samples": 10, "test_samples": 10, "tasks": "five"} | changed
    with pytest.raises(DataError, match=message) as error:
        synthesise(tmp_path / "out", **arguments)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        synthesise(tmp_path / "out", 10, 10, "five")
    assert contents(tmp_path) == {"out/notes.txt": b"mine"}


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    def stop(rows: int) -> None:
        raise KeyboardInterrupt(rows)

    with pytest.raises(KeyboardInterrupt):
        synthesise(tmp_path / "out", 1_000, 1_000, "five", processes=2, progress=stop)
    assert list(tmp_path.iterdir()) == []


def write_slowly(part: data.synthetic.dataset._Part) -> Doubles:
    """Longer than any command has for its end."""
    if part.number > 0:
        time.sleep(120)
    return np.zeros((3, 1))


def test_files_under_way_are_given_up_when_no_longer_wanted() -> None:
    results = data.synthetic.dataset._in_order(
        write_slowly, data.synthetic.dataset._plan(8 * ROWS_PER_FILE, 0), workers=2
    )
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < CLEANING_SECONDS / 2
