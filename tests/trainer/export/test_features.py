"""`features.py` of an export makes of raw rows what training makes of the same rows in Parquet."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.columns.decode import decode
from data.discovery.source import source_of
from data.storage.manifest_file import load_manifest
from tests.trainer.export.logs import config_of, write_log
from trainer.config.run_config import Config
from trainer.datasets import build_columns, open_manifest
from trainer.export.recipe import build_recipe, write_vocabularies
from trainer.export.rows import draw_rows, raw_rows, take_rows
from trainer.export.standalone.features import Recipe
from trainer.prediction.predict import without_labels
from trainer.run.directory import RunDirectory
from trainer.run.vocabularies import kept_vocabularies


@pytest.fixture(scope="module")
def config(run: Path) -> Config:
    return RunDirectory(str(run)).read_config()


@pytest.fixture(scope="module")
def recipe(run: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    directory = RunDirectory(str(run))
    described = build_recipe(config, load_manifest(directory.manifests["train"]))
    (folder / "features.json").write_text(described.model_dump_json())
    write_vocabularies(folder, kept_vocabularies(directory))
    return Recipe(folder / "features.json")


@pytest.mark.parametrize("seed", [2, 3])
def test_equal_to_decoding(run: Path, config: Config, recipe: Recipe, tmp_path: Path, seed: int) -> None:
    write_log(tmp_path / "log", 400, seed)
    unlabelled = without_labels(config)
    manifest = open_manifest(source_of(str(tmp_path / "log")))
    drawn = draw_rows(manifest, unlabelled.features.columns, 400)
    rows = pa.concat_tables(drawn, promote_options="permissive").combine_chunks()
    columns = build_columns(unlabelled, kept_vocabularies(RunDirectory(str(run))))
    expected = decode(rows, columns, str)
    sparse, dense = recipe.inputs(list(raw_rows([rows])))

    for feature, ids in zip(unlabelled.features.sparse, expected.ids, strict=True):
        offsets = np.arange(401) if ids.offsets is None else ids.offsets
        assert sparse[feature.name]["ids"].tolist() == ids.values.tolist(), feature.name
        assert sparse[feature.name]["offsets"].tolist() == offsets[:-1].tolist(), feature.name
        if feature.weights:
            assert ids.weights is not None
            assert sparse[feature.name]["weights"].tolist() == ids.weights.tolist()
    np.testing.assert_allclose(dense, expected.dense_RD, rtol=2e-7, atol=0)
    assert (dense == expected.dense_RD).mean() > 0.999


ROW: dict[str, Any] = {
    "user": 7,
    "word": "home",
    "tags": ["home", None, "推荐"],
    "scores.key": [3, 4],
    "scores.value": [0.5, -1.0],
    "geo": {"city": "für dich"},
    "price": 0.7,
    "at": "2022-04-25T13:00:00.5+02:00",
    "born": "2022-04-20",
    "bytes": b"\x00\xff",
    "age": 3.0,
    "vector": [1.0, None, 2.0],
    "count": 12,
}


@pytest.mark.parametrize(
    ("column", "same"),
    [
        ("user", np.int16(7)),
        ("user", 7.0),
        ("user", Decimal("7.0")),
        ("word", b"home"),
        ("tags", ("home", "推荐")),
        ("at", datetime(2022, 4, 25, 11, 0, 0, 500_000)),
        ("at", datetime(2022, 4, 25, 11, 0, 0, 500_000, UTC)),
        ("at", np.datetime64("2022-04-25T11:00:00.500")),
        ("at", "2022-04-25 11:00:00.500000000Z"),
        ("at", "2022-04-25 13:00:00.5+02"),
        ("born", date(2022, 4, 20)),
        ("bytes", {"hex": "00ff"}),
        ("vector", np.array([1, np.nan, 2], np.float32)),
        ("count", np.uint8(12)),
        ("scores.value", np.array([0.5, -1.0])),
        ("geo.city", "für dich"),
    ],
    ids=str,
)
def test_a_value_may_be_given_in_several_ways(recipe: Recipe, column: str, same: Any) -> None:
    expected, found = recipe.inputs([ROW]), recipe.inputs([{**ROW, column: same}])
    for name, arrays in expected[0].items():
        for key, array in arrays.items():
            assert found[0][name][key].tolist() == array.tolist()
    assert found[1].tolist() == expected[1].tolist()


@pytest.mark.parametrize("null", [None, pd.NA, pd.NaT, float("nan")], ids=str)
@pytest.mark.parametrize("column", ["tags", "price", "age", "at", "count"])
def test_nulls_of_pandas(recipe: Recipe, column: str, null: Any) -> None:
    expected, found = recipe.inputs([{**ROW, column: None}]), recipe.inputs([{**ROW, column: null}])
    assert {name: arrays["ids"].tolist() for name, arrays in found[0].items()} == {
        name: arrays["ids"].tolist() for name, arrays in expected[0].items()
    }
    assert found[1].tolist() == expected[1].tolist()


def test_a_map_and_a_nested_row_are_read_by_paths(recipe: Recipe) -> None:
    nested = {key: value for key, value in ROW.items() if not key.startswith("scores")} | {"scores": {3: 0.5, 4: -1.0}}
    expected, found = recipe.inputs([ROW])[0]["scores"], recipe.inputs([nested])[0]["scores"]
    assert {key: array.tolist() for key, array in found.items()} == {
        key: array.tolist() for key, array in expected.items()
    }


def test_no_rows(recipe: Recipe) -> None:
    sparse, dense = recipe.inputs([])
    assert dense.shape == (0, 7)
    assert all(len(arrays["ids"]) == len(arrays["offsets"]) == 0 for arrays in sparse.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"user": "7"},
            "row 1: feature 'user': column 'user' holds '7', but the model is trained on values of kind int",
        ),
        ({"user": 40}, "row 1: feature 'user as it is': id 40 has no row of table 'plain', which has 40"),
        ({"user": 1 << 63}, "more than 64 bits hold"),
        ({"user": 1.5}, "column 'user' holds 1.5, which is no whole number"),
        ({"user": float("inf")}, "which is no whole number"),
        ({"user": [7]}, "column 'user' holds [7], but the model is trained on values of kind integer"),
        ({"word": 7}, "the model is trained on values of kind text"),
        ({"tags": "home"}, "but the model is trained on values of kind list of text"),
        ({"scores.value": [0.5]}, "1 weights for 2 ids; write one for each"),
        ({"scores.value": [0.5, None]}, "not a number"),
        ({"scores.value": [0.5, 1e39]}, "is no finite number"),
        ({"at": 1_650_884_400}, "column 'at' holds 1650884400, which is no time"),
        ({"at": "1650884400000"}, "column 'at' holds '1650884400000', which is no time"),
        ({"at": "20220425T130000"}, "which is no time"),
        ({"bytes": {"hex": 7}}, "row 1: feature 'bytes'"),
        ({"user": Decimal("sNaN")}, "row 1: feature 'user'"),
        ({"tags": [pd.NA]}, "row 1: feature 'tags'"),
        ({"at": "yesterday"}, "column 'at' holds 'yesterday', which is no time as in 2022-04-25T13:00:00"),
        ({"at": "20220-04-25T13:00:00"}, "years 1 to 9999"),
        ({"vector": [1.0]}, "row 1: dense feature 'vector': has 1 numbers, not 3"),
        ({"vector": 1.0}, "but the model is trained on values of kind list of number"),
        ({"age": "old"}, "column 'age' holds 'old', not a number"),
        ({"geo": 3}, "there is no column 'geo.city'; write None if it is null"),
        ({"word": "\ud800"}, "row 1: feature 'word'"),
    ],
    ids=str,
)
def test_what_training_would_refuse_is_an_error(recipe: Recipe, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is what counts
        recipe.inputs([ROW, {**ROW, **changes}])
    assert message in str(error.value)


def test_only_a_column_that_files_may_lack_may_be_left_out(recipe: Recipe) -> None:
    sparse, _ = recipe.inputs([ROW])
    assert sparse["later"]["ids"].tolist() == []
    with pytest.raises(ValueError, match="there is no column 'age'"):
        recipe.inputs([{key: value for key, value in ROW.items() if key != "age"}])


def test_a_log_of_another_seed_differs(tmp_path: Path) -> None:
    """The datasets of the tests are not all alike."""
    write_log(tmp_path / "one", 50, 1)
    write_log(tmp_path / "two", 50, 2)
    one, two = (open_manifest(source_of(str(tmp_path / name))) for name in ("one", "two"))
    names = config_of(tmp_path).features.columns
    rows = [list(raw_rows(draw_rows(manifest, names, 50))) for manifest in (one, two)]
    assert rows[0] != rows[1]


def test_files_that_store_a_column_in_unlike_ways(tmp_path: Path) -> None:
    """Each row is drawn as its own file stores it; Arrow has no type for all of them."""
    stored = [
        (pa.bool_(), pa.timestamp("s", "Asia/Kathmandu"), "2022-04-25T13:00:00.000"),
        (pa.int8(), pa.timestamp("ms"), "2022-04-25T13:00:00.000"),
        (pa.uint16(), pa.timestamp("us", "UTC"), "2022-04-25T13:00:00.000000"),
    ]
    for number, (flag, at, _) in enumerate(stored):
        at_ = pa.array([1_650_891_600] * 2, pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp(at.unit))
        columns = {"flag": pa.array([True, None]).cast(flag), "at": at_.cast(at)}
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    tables = draw_rows(open_manifest(source_of(str(tmp_path))), ["flag", "at"], 6)
    rows = list(raw_rows(tables))
    assert [row["at"] for row in rows] == [text for *_, text in stored for _ in range(2)]
    assert [row["flag"] for row in rows] == [True, None, 1, None, 1, None]
    assert list(raw_rows(take_rows(tables, np.array([0, 3, 4])))) == [rows[0], rows[3], rows[4]]
