"""`adatt inspect`: what a person should know of a dataset before training on it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w

from data.profile.contents import Contents
from tests.commands import run_command
from tests.trainer.datasets import config_values, write_dataset

RANDOM = np.random.default_rng(1)
ROWS = 3_000


def contents_of(*columns: dict[str, pa.Array]) -> Contents:
    contents = Contents()
    for block in columns:
        contents.add(block)
    return contents


def test_rows_that_are_alike_are_found_however_they_are_stored() -> None:
    one = {"x": pa.array([1, 2, 2, None]), "y": pa.array(["a", "b", "b", "c"])}
    other = {"y": pa.array(["b", "c"]).dictionary_encode(), "x": pa.array([2, None], pa.int8())}
    assert contents_of(one).repeated == 0.25
    assert contents_of(other).found_in(contents_of(one)) == 1.0
    assert contents_of({**other, "x": pa.array([3, None])}).found_in(contents_of(one)) == 0.5
    assert contents_of(one, one).repeated == pytest.approx(5 / 8)


def test_shares_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.profile.contents.HASHES", 1 << 10)
    train = [{"x": pa.array(np.arange(start, start + 1_000))} for start in range(0, 40_000, 1_000)]
    test = [{"x": pa.array(np.arange(start, start + 1_000))} for start in range(30_000, 50_000, 1_000)]
    whole, twice, other = contents_of(*train), contents_of(*train, *train[:20]), contents_of(*test)
    assert whole.repeated == 0.0
    assert twice.repeated == pytest.approx(1 / 3, abs=0.05)
    assert other.found_in(whole) == pytest.approx(0.5, abs=0.06)
    parts = contents_of(*train[::2])
    parts.join(contents_of(*train[1::2]))
    assert set(np.unique(parts.hashes)[:1_000]) == set(np.unique(whole.hashes)[:1_000])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for name, seed in (("train", 1), ("test", 2)):
        write_dataset(tmp_path / name, ROWS, seed=seed)
    train = pq.read_table(tmp_path / "train" / "part-0.parquet")
    test = pq.read_table(tmp_path / "test" / "part-0.parquet")
    pq.write_table(pa.concat_tables([test, train.slice(0, 500)]), tmp_path / "test" / "part-0.parquet")
    columns = {
        "never": pa.array([0] * train.num_rows),
        "outcome": train["click"],
        "half": pa.array([float("nan")] * train.num_rows),
        "nothing": pa.nulls(train.num_rows, pa.int32()),
        "deep": pa.array([[[1]]] * train.num_rows),
    }
    for name in ("part-0", "part-1"):
        path = tmp_path / "train" / f"{name}.parquet"
        table = pq.read_table(path)
        click = table["click"]
        for column, values in columns.items():
            table = table.append_column(column, click if column == "outcome" else values)
        pq.write_table(pa.concat_tables([table, table.slice(0, 300)]), path, row_group_size=10)
    return tmp_path


def test_findings(dataset: Path) -> None:
    values = config_values(dataset)
    values["tables"][0]["rows"] = 40
    values["tasks"].append({"name": "never", "kind": "binary", "label": "never"})
    (dataset / "my.toml").write_text(tomli_w.dumps(values))
    options = ("--config", str(dataset / "my.toml"), "--html", str(dataset / "look.html"))
    code, out, errors = run_command(dataset, "inspect", str(dataset / "train"), *options)
    assert code == 0, errors
    lines = " ".join(out.split())
    for finding in (
        "row groups are small (10 rows, the median)",
        "column 'nothing' has no value",
        "column 'never' has one value in all rows",
        "column 'half' holds 3,600 NaN or ±inf",
        "column 'deep' cannot be read: is list<",
        "label 'never' is 0 in all rows: nothing can be learned of it",
        "column 'outcome' may be a leak: alone it tells 'click' with an AUC of 1.000",
        "feature 'user' has ids 0 to 49, but table 'user' has 40 rows",
        "table 'video' has 64 rows for 30 ids",
        "of the rows repeat an earlier row in every column",
    ):
        assert finding in lines
    assert "nothing odd" not in out
    assert "may be a leak" in (dataset / "look.html").read_text()


def test_rows_in_both(dataset: Path) -> None:
    code, out, errors = run_command(dataset, "inspect", str(dataset / "test"), "--test", str(dataset / "test"))
    assert code == 0, errors
    assert "100.0% of the test rows are in the training data too" in " ".join(out.split())


def test_errors(dataset: Path) -> None:
    for arguments, message in (
        (("nowhere",), "nowhere: no such file or folder"),
        ((str(dataset / "train"), "--where", "dt ="), "--where 'dt =' has its end where a value should be"),
        ((str(dataset / "train"), "--config", "gone.toml"), "gone.toml: no such config file"),
    ):
        code, _, errors = run_command(dataset, "inspect", *arguments)
        assert code == 2
        assert message in errors
