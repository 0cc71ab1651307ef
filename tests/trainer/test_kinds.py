"""Weights meet only data whose values are what they were in training; how they are stored makes no difference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data.errors import ExpectedError
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config, write_dataset
from tests.trainer.training import evaluation_records, train_or_explain
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.prediction.predict import predict_run

Change = Callable[[pa.Table], pa.Table]
HASHED: dict[str, Any] = {
    "sparse": [
        {"column": "user", "table": "user", "hash": True},
        {"column": "video", "table": "video", "hash": True},
        {"column": "recent", "table": "video", "hash": True},
    ]
}
STORED: dict[str, list[tuple[str, pa.DataType]]] = {
    "narrow": [("user", pa.int8()), ("recent", pa.list_(pa.int16())), ("age", pa.float16())],
    "wide": [("video", pa.large_string()), ("recent", pa.large_list(pa.int64())), ("click", pa.int64())],
    "unsigned": [("user", pa.uint64()), ("recent", pa.list_(pa.uint32())), ("rare", pa.uint8())],
    "encoded": [("video", pa.dictionary(pa.int16(), pa.string())), ("weight", pa.float64())],
    "view": [("video", pa.string_view()), ("watch", pa.float64())],
    "bool": [("click", pa.bool_()), ("rare", pa.bool_()), ("age", pa.float64())],
    "nulls from pandas": [("click", pa.float64()), ("rare", pa.float32())],
}
OTHER_KINDS: dict[str, tuple[str, pa.DataType, str]] = {
    "ids as text": ("user", pa.string(), "text (string)"),
    "ids as large text": ("user", pa.large_string(), "text (large_string)"),
    "one id as a list": ("user", pa.list_(pa.int64()), "list of integer ("),
    "list of text": ("recent", pa.list_(pa.string()), "list of text ("),
}


def stored_as(*columns: tuple[str, pa.DataType]) -> Change:
    """The same values in other types, beside a column that nothing reads."""

    def change(table: pa.Table) -> pa.Table:
        for name, kind in columns:
            values = pa.array([[entry] for entry in table[name].to_pylist()]) if name == "user" else table[name]
            column = values if pa.types.is_list(kind) and name == "user" else pc.cast(table[name], kind, safe=False)
            table = table.set_column(table.schema.get_field_index(name), name, column)
        return table.append_column("unused", pa.array(["x"] * len(table)))

    return change


def copy_dataset(source: Path, target: Path, change: Change, files: tuple[str, ...]) -> Path:
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        table = pq.read_table(path)
        pq.write_table(change(table) if path.name in files else table, target / path.name, row_group_size=97)
    return target


def _use(world: World, run: str, data: str, out: str, columns: str) -> list[Any]:
    """What evaluation and prediction find, or what they say."""
    found: list[Any] = []
    try:
        records = evaluation_records(run, "latest", data, world)
        found.append([{key: value for key, value in record.items() if key != "seconds"} for record in records])
    except ExpectedError as error:
        found.append(str(error))
    try:
        predict_run(run, "latest", data, out, columns, world)
        found.append(pq.read_table(out).to_pylist())
    except ExpectedError as error:
        found.append(str(error))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    write_dataset(folder / "train", 1200, seed=1)
    write_dataset(folder / "test", 300, seed=2)
    for split in ("train", "test"):  # numbers that every type of STORED holds exactly
        for path in (folder / split).iterdir():
            table = pq.read_table(path)
            whole = pc.round(table["age"])
            pq.write_table(table.set_column(table.schema.get_field_index("age"), "age", whole), path, row_group_size=97)
    assert run_on_ranks(1, train_or_explain, _config(folder)) == [None]
    return folder


def _config(folder: Path, **sections: Any) -> Config:
    features = {"dense": [{"column": "age"}], **HASHED}
    return make_config(folder, features=features, train={"samples": 640}, **sections)


COPIED = "user,video,recent,age"


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    out = tmp_path_factory.mktemp("expected") / "out"
    return run_on_ranks(1, _use, str(folder / "run"), str(folder / "test"), str(out), COPIED)[0]


@pytest.mark.parametrize("files", [("part-1.parquet",), ("part-0.parquet", "part-1.parquet")], ids=["one", "all"])
@pytest.mark.parametrize("case", STORED)
def test_how_values_are_stored_makes_no_difference(
    folder: Path, tmp_path: Path, case: str, files: tuple[str, ...], expected: list[Any]
) -> None:
    """To an evaluation, to predictions, and to columns copied beside them."""
    data = copy_dataset(folder / "test", tmp_path / "data", stored_as(*STORED[case]), files)
    found = run_on_ranks(1, _use, str(folder / "run"), str(data), str(tmp_path / "out"), COPIED)[0]
    assert found == expected


def test_training_data_may_be_stored_in_any_of_these_ways(folder: Path, tmp_path: Path) -> None:
    everything = dict(column for columns in STORED.values() for column in columns).items()
    for split in ("train", "test"):
        copy_dataset(folder / split, tmp_path / split, stored_as(*everything), ("part-1.parquet",))
    assert run_on_ranks(1, train_or_explain, _config(tmp_path)) == [None]
    logs = [path / "run" / "checkpoints" / "640" for path in (tmp_path, folder)]
    first, second = ([file.read_bytes() for file in sorted(log.glob("*.distcp"))] for log in logs)
    assert first == second


@pytest.mark.parametrize("case", OTHER_KINDS)
def test_values_of_another_kind_are_refused(folder: Path, tmp_path: Path, case: str) -> None:
    """Ids that are text where they were integers would meet other rows of their tables."""
    name, kind, shown = OTHER_KINDS[case]
    data = copy_dataset(
        folder / "test", tmp_path / "data", stored_as((name, kind)), ("part-0.parquet", "part-1.parquet")
    )
    messages = [
        *run_on_ranks(1, _use, str(folder / "run"), str(data), str(tmp_path / "out"), "")[0],
        run_on_ranks(
            1, train_or_explain, _config(folder, run={"dir": str(tmp_path / "run")}, data={"test": str(data)})
        )[0],
    ]
    for message in messages:
        assert f"column {name!r} is {shown}" in str(message)
        assert f"in {data}, but " in str(message)
        assert f"in {folder / 'train'}, which the model is trained on" in str(message)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", OTHER_KINDS)
def test_files_of_one_dataset_that_differ_in_kind_are_named(folder: Path, tmp_path: Path, case: str) -> None:
    name, kind, shown = OTHER_KINDS[case]
    copy_dataset(folder / "train", tmp_path / "train", stored_as((name, kind)), ("part-1.parquet",))
    copy_dataset(folder / "test", tmp_path / "test", stored_as(), ())
    message = str(run_on_ranks(1, train_or_explain, _config(tmp_path))[0])
    assert message.startswith(f"{tmp_path}/train/part-1.parquet: column {name!r} is {shown}")
    assert message.endswith(f"in {tmp_path}/train/part-0.parquet; write both alike")


def test_columns_to_copy_that_have_no_type_in_common_are_named(folder: Path, tmp_path: Path) -> None:
    """Nothing else reads them."""

    def change(table: pa.Table) -> pa.Table:
        return table.append_column("note", pa.array(["x"] * len(table)))

    data = copy_dataset(folder / "test", tmp_path / "data", change, ("part-0.parquet",))
    second = data / "part-1.parquet"
    pq.write_table(pq.read_table(second).append_column("note", pa.array([1] * 150)), second)
    out = tmp_path / "out"
    evaluated, message = run_on_ranks(1, _use, str(folder / "run"), str(data), str(out), "note")[0]
    assert isinstance(evaluated, list)
    assert message.startswith(f"{second}: column 'note' is int64, but string in {data}/part-0.parquet; ")
    assert not out.exists()


@pytest.mark.parametrize("key", ["by", "unit", "group_by"])
def test_groups_of_rows_are_of_one_kind_in_all_files(folder: Path, tmp_path: Path, key: str) -> None:
    copy_dataset(folder / "train", tmp_path / "train", stored_as(), ())
    copy_dataset(folder / "test", tmp_path / "test", stored_as(("weight", pa.string())), ("part-1.parquet",))
    config = _config(tmp_path, evaluate={key: ["weight"] if key == "by" else "weight"})
    message = str(run_on_ranks(1, train_or_explain, config)[0])
    assert message.startswith(f"{tmp_path}/test/part-1.parquet: column 'weight' is text (string), but number (float)")
    assert not (tmp_path / "run").exists()
