"""`adatt init`: what becomes of each column, what is tested on, and that the config trains at once."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w

from data.errors import ExpectedError
from data.hashing import fold
from data.profile.column import ColumnProfile
from tests.commands import run_command
from tests.jobs import announced, free_port, run_job
from tests.trainer.datasets import config_values, write_dataset
from trainer.proposal.choice import Choice, choose
from trainer.proposal.split import split_dataset

ROWS = 2_000
RANDOM = np.random.default_rng(0)
CATEGORIES = pa.array(RANDOM.integers(0, 7, ROWS))


def chosen(name: str, array: pa.Array, kind: str = "integer", *, is_list: bool = False) -> Choice:
    column = ColumnProfile(kind, is_list)  # type: ignore[arg-type]
    column.add(array, 0)
    return choose(name, column, None, None)


def test_categories_and_ids_are_looked_up() -> None:
    for name, array, kind in (
        ("tab", CATEGORIES, "integer"),
        ("user_id", pa.array(RANDOM.integers(0, 500, ROWS)), "integer"),
        ("userId", pa.array(RANDOM.integers(0, 500, ROWS).astype(float)), "number"),
        ("title", pa.array([f"t{number % 9}" for number in range(ROWS)]), "text"),
    ):
        choice = chosen(name, array, kind)
        assert [entry["column"] for entry in choice.sparse] == [name], choice
        assert choice.sparse[0]["hash"]
        assert choice.tables[0]["rows"] >= 20 * len(array.unique())
        assert not choice.dense


def test_counts_and_numbers_are_dense_and_bucketed() -> None:
    for array, kind in (
        (pa.array(RANDOM.integers(0, 500, ROWS)), "integer"),
        (pa.array(RANDOM.random(ROWS)), "number"),
    ):
        choice = chosen("price", array, kind)
        assert choice.dense == ({"column": "price"},)
        assert choice.sparse[0]["boundaries"] == "quantiles:20"
        assert choice.tables[0]["rows"] == 20


def test_other_columns() -> None:
    at = pa.array(RANDOM.integers(0, 10**9, ROWS), pa.timestamp("s"))
    assert chosen("at", at, "time").sparse[0]["parts"] == ["hour", "day_of_week"]
    tags = pa.array([[number % 5] * (number % 3) for number in range(ROWS)])
    assert chosen("tags", tags, is_list=True).sparse[0]["pooling"] == "mean"
    vectors = pa.array([[0.5, 1.0, float(number)] for number in range(ROWS)])
    assert chosen("picture", vectors, "number", is_list=True).dense == ({"column": "picture", "size": 3},)


@pytest.mark.parametrize(
    ("array", "kind", "is_list", "why"),
    [
        (pa.array([5] * ROWS), "integer", False, "all rows have one value"),
        (pa.nulls(ROWS, pa.int64()), "integer", False, "no row has a value"),
        (pa.array(range(ROWS)), "integer", False, "hardly a value comes twice"),
        (pa.array([f"{number}" for number in range(ROWS)]), "text", False, "hardly a value comes twice"),
        (pa.array(range(1_650_000_000_000, 1_650_000_000_000 + ROWS)), "integer", False, "a clock in milliseconds"),
        (pa.array([[1.0] * (number % 2) for number in range(ROWS)]), "number", True, "lists of 0 to 1 numbers"),
    ],
)
def test_what_is_left_out(array: pa.Array, kind: str, is_list: bool, why: str) -> None:
    choice = chosen("x", array, kind, is_list=is_list)
    assert choice.why.startswith(f"left out: {why}")
    assert not choice.sparse
    assert not choice.dense


# ---- training and test data


def write(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns or {"x": [1, 2]}), path)


def test_the_split(tmp_path: Path) -> None:
    write(tmp_path / "a" / "train" / "p.parquet")
    write(tmp_path / "a" / "test" / "p.parquet")
    for uri in (tmp_path / "a", tmp_path / "a" / "train"):
        split = split_dataset(str(uri), None, None)
        assert (str(split.train), str(split.test)) == (f"{tmp_path}/a/train", f"{tmp_path}/a/test")

    for day in range(1, 21):
        write(tmp_path / "b" / f"dt=2022-04-{day:02}" / "p.parquet")
    split = split_dataset(str(tmp_path / "b"), None, "dt > 2022-04-01")
    assert split.train.where == "(dt > 2022-04-01) and dt < 2022-04-20"
    assert split.test.where == "(dt > 2022-04-01) and dt >= 2022-04-20"
    assert split_dataset(str(tmp_path / "b"), "elsewhere", None).test.uris == ("elsewhere",)

    write(tmp_path / "c" / "p.parquet")
    with pytest.raises(ExpectedError, match="name test data with --test"):
        split_dataset(str(tmp_path / "c"), None, None)


# ---- the command


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for name, seed in (("train", 1), ("test", 2)):
        write_dataset(tmp_path / "log" / name, 3_000, seed=seed)
        for path in (tmp_path / "log" / name).iterdir():
            table = pq.read_table(path)
            pq.write_table(table.append_column("outcome", table["click"]), path, row_group_size=500)
    return tmp_path / "log"


def test_init_and_train(dataset: Path, tmp_path: Path) -> None:
    config = tmp_path / "my.toml"
    labels = ("--label", "click", "--label", "watch")
    code, out, errors = run_command(tmp_path, "init", str(dataset), *labels, "--out", str(config))
    assert code == 0, errors
    assert "3,000 rows" in out
    text = config.read_text()
    assert "# outcome: left out: alone it tells 'click' with an AUC of 1.000" in text
    values = tomllib.loads(text)
    assert [task["kind"] for task in values["tasks"]] == ["binary", "regression"]
    assert values["evaluate"]["at_samples"] == [300, 1_000, 3_000]
    assert values["train"]["samples"] == 3_000
    columns = {entry["column"] for entry in values["features"]["sparse"]}
    assert {"user", "video", "recent"} <= columns

    code, out, errors = run_command(tmp_path, "train", str(config), "--set", f'run.dir="{tmp_path / "run"}"')
    assert code == 0, errors
    code, _, errors = run_command(tmp_path, "init", str(dataset), *labels, "--out", str(config))
    assert code == 2
    assert "exists; name another file" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "clicks"], "--label 'clicks': no such column in"),
        (["--label", "video"], "--label 'video' holds text; a label is one number a row"),
        (["--label", "recent"], "--label 'recent' holds list of integer"),
        (["--label", "click", "--where", "dt >"], "--where 'dt >' has its end where a value should be"),
    ],
)
def test_what_cannot_be_proposed(dataset: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, errors = run_command(tmp_path, "init", str(dataset), *arguments, "--out", str(tmp_path / "x.toml"))
    assert code == 2
    assert message in errors
    assert not (tmp_path / "x.toml").exists()


def test_stats(dataset: Path, tmp_path: Path) -> None:
    """The same on two ranks as on one."""
    code, out, errors = run_command(tmp_path, "stats", str(dataset / "train"))
    assert code == 0, errors
    assert "3,000 rows, 2 files" in out
    assert f"counts stored in {dataset}/_adatt/" in "".join(out.splitlines())
    code, out, errors = run_command(tmp_path, "stats", str(dataset / "train"), "--json")
    assert code == 0, errors
    assert len(out.splitlines()) == 10

    port = free_port()
    ranks = [announced(rank, 2, port) for rank in range(2)]
    first, second = run_job([["stats", str(dataset / "train"), "--json"]] * 2, ranks)
    assert (first.code, second.code, second.out) == (0, 0, ""), first.err
    for one, two in zip(out.splitlines(), first.out.splitlines(), strict=True):
        alone, shared = json.loads(one), json.loads(two)
        for key in [key for key, value in alone.items() if isinstance(value, float)]:
            assert shared.pop(key) == pytest.approx(alone.pop(key), rel=1e-9)
        assert shared == alone


def test_stats_of_a_config_tell_which_hashed_ids_share_rows(dataset: Path, tmp_path: Path) -> None:
    values = config_values(dataset)
    values["features"]["sparse"][0]["hash"] = True
    (tmp_path / "my.toml").write_text(tomli_w.dumps(values))
    code, out, errors = run_command(tmp_path, "stats", str(tmp_path / "my.toml"))
    assert code == 0, errors
    users = fold(np.arange(50), 50)
    shared = np.bincount(users)[users] > 1
    read = pq.read_table(dataset / "train", columns=["user"])["user"].to_numpy()
    row = next(line for line in reversed(out.splitlines()) if line.startswith("│ user "))
    assert [cell.strip() for cell in row.split("│")[3:7]] == [
        "50",
        "50",
        f"{shared.mean():.1%}",
        f"{shared[read].mean():.1%}",
    ]
