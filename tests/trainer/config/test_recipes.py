"""Recipes that cannot be followed are refused in one line that names the key."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.datasets import config_values
from trainer.config.load import parse_config
from trainer.errors import ConfigError

SPARSE: list[tuple[dict[str, Any], str]] = [
    ({}, "name its column, or in place of it the columns of a cross"),
    ({"column": "a", "cross": ["b", "c"]}, "name its column, or in place of it the columns of a cross"),
    ({"cross": ["b"]}, "cross = ['b'] needs another column"),
    ({"cross": ["b", "c"], "boundaries": [1.0]}, "cross and boundaries exclude each other"),
    ({"cross": ["b", "c"], "parts": ["hour"]}, "cross and parts exclude each other"),
    ({"cross": ["b", "c"], "weights": "w"}, "cross and weights exclude each other: weights needs a list"),
    ({"column": "a", "boundaries": [2.0, 1.0]}, "boundaries must ascend strictly"),
    ({"column": "a", "boundaries": "quantile:3"}, "features.sparse.3.boundaries: 'quantile:3' is no list of numbers"),
    ({"column": "a", "boundaries": "quantiles:0"}, "'quantiles:0' is no list of numbers, nor as in"),
    ({"column": "a", "boundaries": "quantiles:99"}, "'user' has 50 rows, but feature 'a' needs 99 for its buckets"),
    ({"column": "a", "boundaries": "quantiles:9", "hash": True}, "hash and boundaries exclude each other"),
    ({"column": "a", "boundaries": [1.0], "parts": ["hour"]}, "boundaries and parts exclude each other"),
    ({"column": "a", "parts": ["minute"]}, "'user' has 50 rows, but feature 'a' needs 60 for its parts"),
    ({"column": "a", "parts": ["hour"], "hash": True}, "hash and parts exclude each other"),
    ({"column": "a", "parts": ["hours"]}, "features.sparse.3.parts.0: input should be 'minute', 'hour', "),
    ({"column": "a", "parts": ["hour", "hour"]}, "parts = ['hour', 'hour'] names one twice"),
    ({"column": "a", "parts": ["hour"], "timezone": "Mars/Base"}, "timezone: 'Mars/Base' is no time zone"),
    ({"column": "a", "parts": ["hour"], "first": 2}, "parts and first exclude each other: first needs a list"),
    ({"column": "a", "seed": 3}, "seed and hashes are those of a hash: set hash = true"),
    ({"column": "a", "hashes": 2}, "seed and hashes are those of a hash: set hash = true"),
    ({"column": "a", "hash": True, "hashes": 0}, "features.sparse.3.hashes: input should be greater than 0, not 0"),
    ({"column": "a", "hash": True, "hashes": 99}, "features.sparse.3.hashes: input should be less than or equal to 16"),
    ({"column": "a", "hash": True, "seed": -1}, "features.sparse.3.seed: input should be greater than or equal to 0"),
    ({"column": "a", "first": 2, "last": 2}, "first and last exclude each other"),
    ({"column": "a", "last": 0}, "features.sparse.3.last: input should be greater than 0"),
    ({"column": "a", "pooling": "max"}, "features.sparse.3.pooling: input should be 'sum' or 'mean', not 'max'"),
    ({"column": "a", "missing": "zero"}, "features.sparse.3.missing: input should be 'error' or 'null', not 'zero'"),
    ({"column": "a", "weights": ["w"]}, "features.sparse.3.weights: input should be a valid string"),
    ({"column": "oracle_a"}, "column 'oracle_a' holds the true mean of a label"),
    ({"cross": ["user", "click"]}, "label 'click' of task 'click' is a feature too"),
    ({"column": "a", "weights": "click"}, "label 'click' of task 'click' is a feature too"),
    ({"column": "a", "vocabulary": "auto", "hash": True}, "hash and vocabulary exclude each other"),
    ({"column": "a", "vocabulary": "auto", "parts": ["hour"]}, "parts and vocabulary exclude each other"),
    ({"cross": ["b", "c"], "vocabulary": "auto"}, "cross and vocabulary exclude each other"),
    ({"column": "a", "vocabulary": "v.parquet", "min_count": 2}, 'min_count is for vocabulary = "auto"'),
    ({"column": "a", "unknown_rows": 2}, "unknown_rows are those of a vocabulary"),
    ({"column": "a", "vocabulary": "auto", "unknown_rows": 50}, "'user' has 50 rows, but feature 'a' needs 51 for its"),
    ({"column": "a", "vocabulary": "auto"}, "share table 'user', but vocabulary is '' of one and 'auto' of the other"),
    ({"column": "a", "vocabulary": "s3://AKIA:hunter2@b/x"}, "vocabulary: a URI of s3 holds credentials"),
    ({"column": "a", "vocabulary": 5}, "features.sparse.3.vocabulary: input should be a valid string, not 5"),
    ({"column": "a", "vocabulary": "auto", "seed": 3}, "seed and hashes are those of a hash: set hash = true"),
]
DENSE: list[tuple[dict[str, Any], str]] = [
    ({"since": "a"}, "key 'features.dense.1.column' is missing"),
    ({"column": "a", "size": 0}, "features.dense.1.size: input should be greater than 0"),
    ({"column": "a", "size": 3, "since": "b"}, "column 'a': since and size exclude each other"),
    ({"column": "a", "clip": [2, 1]}, "clip of column 'a': the smallest value comes first"),
    ({"column": "a", "clip": [1]}, "features.dense.1.clip"),
    ({"column": "a", "transform": "log"}, "features.dense.1.transform: input should be 'none', 'log1p' or 'sqrt'"),
    ({"column": "a", "mean": "median"}, "features.dense.1.mean: input should be a valid number, not 'median'"),
    ({"column": "a", "scale": 0}, "features.dense.1.scale: input should be greater than 0"),
    ({"column": "a", "fill": "mean"}, "features.dense.1.fill: input should be a valid number"),
    ({"column": "a", "fill": float("nan")}, "features.dense.1.fill: input should be a finite number"),
    ({"column": "click", "since": "a"}, "label 'click' of task 'click' is a feature too"),
]
TASKS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "binary", "threshold": "x"}, "tasks.3.threshold: input should be a valid number"),
    ({"kind": "regression", "threshold": 1.0}, "threshold of task 't': only binary tasks have one"),
    ({"kind": "binary", "transform": "log1p"}, "transform of task 't': only regressions have one"),
    ({"kind": "regression", "transform": "exp"}, "tasks.3.transform: input should be 'none', 'log1p' or 'sqrt'"),
    ({"kind": "regression", "negative_rate": 0.1}, "negative_rate of task 't': only binary tasks have one"),
    ({"kind": "regression", "test_negative_rate": 1}, "test_negative_rate of task 't': only binary tasks have one"),
    ({"kind": "binary", "negative_rate": 0}, "tasks.3.negative_rate: input should be greater than 0, not 0"),
    ({"kind": "binary", "negative_rate": 10}, "tasks.3.negative_rate: input should be less than or equal to 1, not 10"),
    ({"kind": "binary", "missing": "skip"}, "tasks.3.missing: input should be 'error' or 'null'"),
]
DATA: list[tuple[dict[str, Any], str]] = [
    ({"train": []}, "data.train: names no dataset"),
    ({"train": [1]}, "data.train: input should be a valid string, not [1]"),
    ({"where": "dt >"}, "data.where: 'dt >' has its end where a value should be"),
    ({"where": 5}, "data.where: input should be a valid string, not 5"),
    ({"test_where": "(dt = 1"}, "data.test_where: '(dt = 1' lacks a ')'"),
    ({"train": "s3://AKIA:hunter2@b/x"}, "data.train: a URI of s3 holds credentials"),
    ({"test": ["a", "s3://b/x?secret_key=hunter2"]}, "data.test: a URI of s3 holds credentials"),
]


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(values, "my.toml")
    text = str(error.value)
    assert text.startswith("my.toml: ")
    assert "\n" not in text
    assert "hunter2" not in text
    return text


@pytest.mark.parametrize(("entry", "message"), SPARSE, ids=str)
def test_sparse(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    values = config_values(tmp_path)
    values["features"]["sparse"].append({"table": "user", "name": entry.get("column", "x"), **entry})
    assert message in refused(values)


@pytest.mark.parametrize(("entry", "message"), DENSE, ids=str)
def test_dense(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    values = config_values(tmp_path)
    values["features"]["dense"].append(entry)
    assert message in refused(values)


@pytest.mark.parametrize(("entry", "message"), TASKS, ids=str)
def test_tasks(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    values = config_values(tmp_path)
    values["tasks"].append({"name": "t", "label": "l", **entry})
    assert message in refused(values)


@pytest.mark.parametrize(("keys", "message"), DATA, ids=str)
def test_data(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    assert message in refused(config_values(tmp_path, data=keys))


def test_auto_is_as_good_as_left_out(tmp_path: Path) -> None:
    age = {"column": "age", "transform": "auto", "mean": "auto", "scale": "auto"}
    config = parse_config(config_values(tmp_path, features={"dense": [age]}), "my.toml")
    feature = config.features.dense[0]
    assert (feature.transform, feature.mean, feature.scale) == (None, None, None)
