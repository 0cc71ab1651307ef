"""Predictions: every row once in the order of the input, alike on any ranks, and what `adatt evaluate` has seen."""

import json
import resource
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from data.discovery.dataset import read_manifest
from data.errors import ExpectedError
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config, write_dataset
from tests.trainer.test_cli import command
from tests.trainer.training import evaluation_records
from trainer.datasets import test_reading as reading_of_test_set
from trainer.distributed.world import World
from trainer.prediction.lane_file import LaneFile
from trainer.prediction.output_folder import OutputFolder
from trainer.prediction.predict import predict_run
from trainer.train import train

COPIED = ["user", "video", "recent", "age", "rare"]
TASKS = ["watch", "click", "seldom", "extra"]
OUTCOMES = ["click", "rare", "watch", "weight", "oracle_click"]


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with weighted rows, a task whose label is missing in every third row, and an auxiliary task."""
    folder = tmp_path_factory.mktemp("run") / "run"
    tasks = [
        {"name": "watch", "kind": "regression", "label": "watch"},
        {"name": "click", "kind": "binary", "label": "click"},
        {"name": "seldom", "kind": "binary", "label": "rare"},
        {"name": "extra", "kind": "binary", "label": "click", "auxiliary": True},
    ]
    data = {"weight": "weight", "block_rows": 40}  # in row groups of 97
    config = make_config(dataset, run={"dir": str(folder)}, data=data, tasks=tasks, train={"samples": 6400})
    run_on_ranks(1, _train, config)
    return folder


def _train(world: World, config: Any) -> None:
    train(config, world)


def predict(world: World, run: Path, data: Path, out: Path | str, columns: str = "", checkpoint: str = "latest") -> str:
    """The error message, or nothing; the same on all ranks."""
    try:
        predict_run(str(run), checkpoint, str(data), str(out), columns, world)
    except ExpectedError as error:
        return str(error)
    return ""


def predict_on(size: int, run: Path, data: Path, out: Path, columns: str = "", checkpoint: str = "latest") -> str:
    """As `predict`, on `size` ranks, which must agree."""
    messages = run_on_ranks(size, predict, run, data, out, columns, checkpoint)
    assert len(set(messages)) == 1
    return str(messages[0])


def read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


@pytest.fixture(scope="module")
def predicted(dataset: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The test set as scored on 1, 2 and 4 ranks."""
    folder = tmp_path_factory.mktemp("predicted")
    for size in (1, 2, 4):
        assert predict_on(size, run, dataset / "test", folder / str(size), ",".join(COPIED)) == ""
    return {size: folder / str(size) for size in (1, 2, 4)}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_one_row_out_per_row_in_with_its_columns(dataset: Path, predicted: dict[int, Path], size: int) -> None:
    found, source = read(predicted[size]), read(dataset / "test")
    assert found.schema.names == ["row", *TASKS, *COPIED]
    assert found["row"].to_pylist() == list(range(1001))
    assert found.select(COPIED).equals(source.select(COPIED))
    assert found["rare"].null_count == 334
    assert {found[task].type for task in TASKS} == {pa.float32()}
    names = sorted(path.name for path in predicted[size].iterdir())
    assert names == ["_SUCCESS", *(f"part-0000{lane}.parquet" for lane in range(4))]
    marker = json.loads((predicted[size] / "_SUCCESS").read_text())
    assert (marker["rows"], marker["files"], marker["samples"]) == (1001, 4, 6400)


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_ranks_predicts_alike(predicted: dict[int, Path], size: int) -> None:
    for path in sorted(predicted[1].glob("*.parquet")):
        one, other = pq.read_table(path), pq.read_table(predicted[size] / path.name)
        for task in TASKS:
            np.testing.assert_allclose(other[task].to_numpy(), one[task].to_numpy(), rtol=1e-6, atol=1e-7)


def test_metrics_of_the_predictions_are_those_of_evaluate(dataset: Path, run: Path, predicted: dict[int, Path]) -> None:
    found, source = read(predicted[2]), read(dataset / "test")
    records = {record["task"]: record for record in run_on_ranks(1, _evaluate, run)[0]}
    for task, column in (("click", "click"), ("seldom", "rare")):
        present = source[column].is_valid().to_numpy()
        label = source[column].fill_null(0).to_numpy()[present]
        weight, chance = source["weight"].to_numpy()[present].astype(float), found[task].to_numpy()[present]
        log_loss = metrics.log_loss(label, chance.astype(float), sample_weight=weight)
        rate = np.average(label, weights=weight)
        entropy = metrics.log_loss(label, np.full(len(label), rate), sample_weight=weight)
        assert records[task]["log_loss"] == pytest.approx(log_loss, rel=1e-6)
        assert records[task]["ne"] == pytest.approx(log_loss / entropy, rel=1e-6)
        auc = metrics.roc_auc_score(label, chance, sample_weight=weight)
        assert abs(records[task]["auc"] - auc) <= records[task]["auc_error"] + 1e-9
        assert records[task]["calibration"] == pytest.approx(np.average(chance, weights=weight) / rate, rel=1e-6)
    weight = source["weight"].to_numpy().astype(float)
    mse = metrics.mean_squared_error(source["watch"].to_numpy(), found["watch"].to_numpy(), sample_weight=weight)
    assert records["watch"]["mse"] == pytest.approx(mse, rel=1e-6)


def _evaluate(world: World, run: Path) -> list[dict[str, Any]]:
    return evaluation_records(str(run), "latest", None, world)


def rewritten(source: Path, target: Path, **changes: pa.Array | None) -> Path:
    """A copy of a dataset in one file of several row groups, with columns added, replaced or (None) left out."""
    table = read(source)
    for name, values in changes.items():
        if values is None:
            table = table.drop_columns([name])
        elif name in table.schema.names:
            table = table.set_column(table.schema.get_field_index(name), name, values)
        else:
            table = table.append_column(name, values)
    target.mkdir()
    pq.write_table(table, target / "rows.parquet", row_group_size=97)
    return target


def test_a_dataset_without_labels_and_weights(
    dataset: Path, run: Path, predicted: dict[int, Path], tmp_path: Path
) -> None:
    bare = rewritten(dataset / "test", tmp_path / "bare", **dict.fromkeys(OUTCOMES))
    assert predict_on(2, run, bare, tmp_path / "out") == ""
    found = read(tmp_path / "out")
    assert found.schema.names == ["row", *TASKS]
    for task in TASKS:
        np.testing.assert_allclose(found[task].to_numpy(), read(predicted[2])[task].to_numpy(), rtol=1e-6, atol=1e-7)


def test_wrong_labels_do_not_matter_and_columns_keep_their_types(dataset: Path, run: Path, tmp_path: Path) -> None:
    numbers = np.arange(1001)
    columns: dict[str, pa.Array] = {
        "time": pa.array(numbers, pa.timestamp("ms", tz="UTC")),
        "price": pa.array([None if row % 7 == 0 else Decimal(row) / 4 for row in range(1001)], pa.decimal128(12, 2)),
        "a.b": pa.array([{"x": row, "y": [str(row)]} for row in range(1001)]),
        "kind": pa.array([f"k{row % 5 + row // 97}" for row in range(1001)]).dictionary_encode(),
        "blob": pa.array([bytes([row % 256]) for row in range(1001)], pa.large_binary()),
    }
    data = rewritten(dataset / "test", tmp_path / "data", **columns, click=pa.array([7] * 1001))
    wanted = [*columns, "click as clicked", "user as u"]
    assert predict_on(2, run, data, tmp_path / "out", " , ".join(wanted)) == ""
    found, source = read(tmp_path / "out"), read(data)
    assert found.schema.names == ["row", *TASKS, *columns, "clicked", "u"]
    for new, name in [*zip(columns, columns, strict=True), ("clicked", "click"), ("u", "user")]:
        assert found[new].type == source[name].type
        assert found[new].to_pylist() == source[name].to_pylist()


def test_fewer_rows_than_lanes_make_fewer_files(dataset: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(read(dataset / "test").slice(0, 3), tmp_path / "data" / "rows.parquet")
    assert predict_on(1, run, tmp_path / "data", tmp_path / "out", "user") == ""
    assert read(tmp_path / "out")["row"].to_pylist() == [0, 1, 2]
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3


@pytest.mark.parametrize(
    ("most_bytes", "expected"), [(32 << 20, [135_000, 135_000, 30_000]), (800_000, [100_000, 100_000, 100_000])]
)
def test_output_row_groups_are_bounded_by_rows_and_by_copied_bytes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int, expected: list[int]
) -> None:
    monkeypatch.setattr("trainer.prediction.lane_file.ROW_GROUP_BYTES", most_bytes)
    rows, batch = 300_000, 5_000
    write_dataset(tmp_path / "data", rows, seed=3, rows_per_group=40_000)
    config = make_config(dataset, data={"lanes": 1, "global_batch_size": batch})
    reading = reading_of_test_set(config, read_manifest(str(tmp_path / "data"), cache=None), config.data.lanes, {})
    schema = pa.schema([("row", pa.int64()), ("click", pa.float32()), ("user", pa.int64())])
    output = OutputFolder((tmp_path / "out").as_uri())
    output.create()
    file = LaneFile(output, 0, schema, reading, ["user"])
    for start in range(0, rows, batch):
        numbers = np.arange(start, start + batch)
        file.add(numbers, (numbers[:, None] / rows).astype(np.float32))
    file.finish()
    with pq.ParquetFile(tmp_path / "out" / "part-00000.parquet") as written:
        sizes = [written.metadata.row_group(index).num_rows for index in range(written.num_row_groups)]
        table = written.read()
    assert sizes == expected
    assert table["row"].to_pylist() == list(range(rows))
    assert table["user"].equals(read(tmp_path / "data")["user"])


@pytest.mark.parametrize("size", [1, 2])
def test_a_bad_row_of_one_rank_removes_all_output(dataset: Path, run: Path, tmp_path: Path, size: int) -> None:
    user = [*read(dataset / "test")["user"].to_pylist()[:-1], 50]
    data = rewritten(dataset / "test", tmp_path / "data", user=pa.array(user))
    message = predict_on(size, run, data, tmp_path / "out", "video")
    assert "row 30 of row group 10 of" in message
    assert "holds id 50" in message
    assert not (tmp_path / "out").exists()


def test_a_column_that_cannot_be_read_removes_all_output(dataset: Path, run: Path, tmp_path: Path) -> None:
    data = rewritten(dataset / "test", tmp_path / "data")
    path = data / "rows.parquet"
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(10).column(file.schema.names.index("oracle_click"))
    content = bytearray(path.read_bytes())
    place = chunk.dictionary_page_offset or chunk.data_page_offset
    content[place : place + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(content)
    out = tmp_path / "out"
    out.mkdir()
    message = predict_on(2, run, data, out, "oracle_click")
    assert "row group 10 of" in message
    assert "cannot be read" in message
    assert list(out.iterdir()) == []


def test_a_full_disk_of_one_rank_removes_all_output(dataset: Path, run: Path, tmp_path: Path) -> None:
    messages = run_on_ranks(2, _predict_with_little_room, run, dataset / "train", tmp_path / "out")
    assert messages[0] == messages[1]
    assert f"--out {tmp_path / 'out'}: cannot be written (" in messages[0]
    assert "File too large" in messages[0]
    assert not (tmp_path / "out").exists()


def _predict_with_little_room(world: World, run: Path, data: Path, out: Path) -> str:
    """On rank 1 no file can grow beyond 30 kB."""
    if not world.is_rank_zero:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    return predict(world, run, data, out)


REFUSED: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "no run": ({"run": "nowhere"}, ("no run here",)),
    "no data": ({"data": "nowhere"}, ("no such file or folder",)),
    "checkpoint": ({"checkpoint": "77"}, ("--checkpoint 77: no checkpoint of", "at 128 samples; there are 6400")),
    "column": ({"columns": "user,usr"}, ("--columns", "no column 'usr'", "it has user, video")),
    "name of a task": ({"columns": "click"}, ("'click' is a task's prediction", "'click as input_click'")),
    "name of the row": ({"columns": "user as row"}, ("'row' is the number of the row",)),
    "column twice": ({"columns": "user,user"}, ("'user' is another column",)),
    "file": ({"out": "file"}, ("is a file",)),
    "not empty": ({"out": "full"}, ("is not empty", "no _SUCCESS", "choose another folder or remove it")),
    "not complete": ({"out": "complete"}, ("is not empty; choose another folder or remove it",)),
    "in the dataset": ({"out": "data/out"}, ("lies in the dataset",)),
    "scheme": ({"out": "s3x://bucket/out"}, ("s3x://bucket/out", "URI that pyarrow.fs opens")),
    "below a file": ({"out": "file/out"}, ("file/out", "cannot be written")),
}


@pytest.fixture(scope="module")
def places(dataset: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, and outputs that cannot be written."""
    folder = tmp_path_factory.mktemp("places")
    rewritten(dataset / "test", folder / "data")
    (folder / "run").symlink_to(run)
    (folder / "file").write_text("")
    for name, content in (("full", "part-00000.parquet"), ("complete", "_SUCCESS")):
        (folder / name).mkdir()
        (folder / name / content).write_text("")
    return folder


def test_what_is_refused_leaves_everything_as_it_was(places: Path) -> None:
    before = sorted(places.rglob("*"))
    jobs = [{"run": "run", "data": "data", "out": "new", "columns": "", "checkpoint": "latest"} | changes
            for changes, _ in REFUSED.values()]  # fmt: skip
    results = run_on_ranks(2, _predict_each, places, jobs)
    assert results[0] == results[1]
    for name, message, (_, parts) in zip(REFUSED, results[0], REFUSED.values(), strict=True):
        assert message.count("\n") == 0, name
        for part in parts:
            assert part in message, name
    assert sorted(places.rglob("*")) == before


def _predict_each(world: World, places: Path, jobs: list[dict[str, str]]) -> list[str]:
    messages = []
    for job in jobs:
        out = job["out"] if "://" in job["out"] else str(places / job["out"])
        paths = {name: places / job[name] for name in ("run", "data")}
        messages.append(predict(world, paths["run"], paths["data"], out, job["columns"], job["checkpoint"]))
    return messages


def test_the_command(dataset: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("predict", str(run), "--data", str(dataset / "test"), "--out", str(out))
    code, printed, err = command(*arguments, "--columns", "click as clicked")
    assert (code, err) == (0, "")
    assert printed.startswith("1,001 rows scored at 6,400 samples, ")
    assert printed.endswith(f" rows/s: 4 files in {out}\n")
    code, printed, err = command(*arguments)
    assert (code, printed) == (2, "")
    assert err == f"error: --out {out} is not empty; choose another folder or remove it\n"
