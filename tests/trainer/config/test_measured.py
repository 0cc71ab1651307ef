"""What the data decides in a config that names only columns, tables and tasks."""

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.statistics import Moments, Statistics, moments
from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values, make_config
from tests.trainer.training import evaluation_records
from trainer.config.compatibility import difference, plain
from trainer.config.load import parse_config
from trainer.config.measured import complete, complete_from, is_complete, odd_columns, weight_of_rate
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train

WATCH, CLICK, RARE = Moments(3.0, 2.0, 100, 100), Moments(0.25, 0.4, 170_000, 100), Moments(0.0, 0.0, 50, 50)
STATISTICS = Statistics(dense=({"log1p": Moments(2.5, 0.5, 100, 100, 0, 9)},), labels=(WATCH, CLICK, RARE))


def test_what_is_left_out_is_measured(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    found = complete(config, STATISTICS)
    assert not is_complete(config)
    assert is_complete(found)
    assert (found.features.dense[0].mean, found.features.dense[0].scale) == (2.5, 0.5)
    watch, click, rare = found.tasks
    assert (watch.label_mean, watch.label_scale) == (3.0, 2.0)
    assert (watch.first_logit, watch.logit_scale, watch.loss_weight) == (3.0, 2.0, 0.25)
    assert (click.label_mean, click.label_scale) == (pytest.approx(25.5 / 101), None)
    assert rare.label_mean == pytest.approx(0.5 / 51)  # no positive at all
    assert math.isfinite(rare.first_logit)
    assert (watch.weight, rare.weight) == (1.0, pytest.approx(3.547, abs=1e-3))


def test_rare_labels_weigh_more() -> None:
    assert weight_of_rate(0.5) == pytest.approx(1)
    assert weight_of_rate(0.017) == pytest.approx(weight_of_rate(0.983))
    assert weight_of_rate(0.017) == pytest.approx(2.837, abs=1e-3)
    assert weight_of_rate(1e-6) == 10


def test_what_the_user_says_stays(tmp_path: Path) -> None:
    values = config_values(tmp_path)
    values["features"]["dense"] = [{"column": "age", "transform": "log1p", "mean": 0.0}]
    values["tasks"][0] |= {"label_mean": 0.0, "label_scale": 1.0, "weight": 0.0}
    found = complete(parse_config(values, "test"), STATISTICS)
    assert (found.features.dense[0].mean, found.features.dense[0].scale) == (0.0, 0.5)
    assert (found.tasks[0].label_mean, found.tasks[0].label_scale, found.tasks[0].weight) == (0.0, 1.0, 0.0)


def test_a_constant_column_is_not_divided_by_zero(tmp_path: Path) -> None:
    constant = Statistics(
        dense=({"none": Moments(7.0, 0.0, 9, 9, 7, 7)},), labels=(Moments(7.0, 0.0, 9, 9), CLICK, RARE)
    )
    found = complete(make_config(tmp_path), constant)
    assert found.features.dense[0].scale == 1.0
    assert found.tasks[0].label_scale == 1.0


@pytest.mark.parametrize(("high", "transform", "mean"), [(9.9, "none", 0.0), (10.1, "log1p", 0.5)])
def test_a_heavy_tail_is_taken_as_logarithms(tmp_path: Path, high: float, transform: str, mean: float) -> None:
    both = {"none": Moments(0.0, 1.0, 9, 9, -1, high), "log1p": Moments(0.5, 2.0, 9, 9, 0, 3)}
    values = config_values(tmp_path)
    values["features"]["dense"] = [{"column": "age"}]
    found = complete(parse_config(values, "test"), Statistics(dense=(both,), labels=STATISTICS.labels))  # type: ignore[arg-type]
    feature = found.features.dense[0]
    assert (feature.transform, feature.mean) == (transform, mean)


def test_a_column_that_does_not_vary_yet_is_taken_as_logarithms(tmp_path: Path) -> None:
    """Nothing is known of what will come: a count in thousands as it is would break a model that has only seen 0."""
    values = config_values(tmp_path)
    values["features"]["dense"] = [{"column": "age"}, {"column": "age", "transform": "none"}]
    open_one = {"none": Moments(0.0, 0.0, 9, 9, 0, 0), "log1p": Moments(0.0, 0.0, 9, 9, 0, 0)}
    fixed = {"none": Moments()}
    found = complete(parse_config(values, "test"), Statistics(dense=(open_one, fixed), labels=STATISTICS.labels))  # type: ignore[arg-type]
    chosen = [(feature.transform, feature.mean, feature.scale) for feature in found.features.dense]
    assert chosen == [("log1p", 0.0, 1.0), ("none", 0.0, 1.0)]


def test_later_starts_take_the_numbers_of_the_run(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    before = complete(config, STATISTICS)
    assert complete_from(config, before) == before
    fewer = make_config(tmp_path, tasks=config_values(tmp_path)["tasks"][:2])  # type: ignore[arg-type]
    assert complete_from(fewer, before).tasks == before.tasks[:2]


def test_columns_without_anything_to_learn_are_told(tmp_path: Path) -> None:
    zero = Moments(0.0, 0.0, 9, 9, 0, 0)
    dense = ({"none": Moments(7.0, 0.0, 9, 9, 7, 7), "log1p": Moments(2.0, 0.0, 9, 9, 2, 2)},)
    assert odd_columns(make_config(tmp_path), Statistics(dense, (Moments(), zero, RARE))) == [  # type: ignore[arg-type]
        "task 'watch': no measured training row has its label 'watch'",
        "task 'click': its label 'click' is 0 in all measured training rows",
        "dense feature 'age' is 7 in all measured training rows",
    ]


def test_a_space_that_no_row_fits_is_told(tmp_path: Path) -> None:
    tasks = [{"name": "click", "kind": "binary", "label": "click", "where": "age > 500"}]
    (line,) = odd_columns(make_config(tmp_path, tasks=tasks), Statistics(({"none": RARE},), (Moments(),)))
    assert line == "task 'click': no measured training row has its label 'click' and fits where = 'age > 500'"


@pytest.mark.parametrize(("high", "count", "odd"), [(1e30, 8_000, True), (1e30, 900, False), (12.0, 8_000, False)])
def test_a_label_that_one_value_rules_is_told(tmp_path: Path, high: float, count: int, odd: bool) -> None:
    watch_B = np.append(np.random.default_rng(7).exponential(size=count - 1), high)
    labels = (moments(watch_B), CLICK, CLICK)
    dense = ({"none": Moments(7.0, 1.0, 9, 9, 6, 8)},)
    lines = odd_columns(make_config(tmp_path), Statistics(dense, labels))  # type: ignore[arg-type]
    assert (len(lines) == 1) is odd
    if odd:
        assert lines[0].startswith("task 'watch': one value of its label 'watch' (they reach from ")
        assert lines[0].endswith("if it is a mistake, write null")


def test_a_column_may_be_read_twice(tmp_path: Path) -> None:
    values = config_values(tmp_path)
    values["features"]["dense"] = [{"column": "age", "transform": "none"}, {"column": "age", "transform": "log1p"}]
    config = parse_config(values, "test")
    dense = ({"none": Moments(9.0, 3.0, 9, 9)}, {"log1p": Moments(2.0, 1.0, 9, 9)})
    before = complete(config, Statistics(dense, STATISTICS.labels))  # type: ignore[arg-type]
    assert [feature.mean for feature in before.features.dense] == [9.0, 2.0]
    assert complete_from(config, before) == before


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"name": "click", "kind": "binary", "label": "click", "label_mean": 1.0}, "must lie between 0 and 1"),
        ({"name": "click", "kind": "binary", "label": "click", "label_scale": 2.0}, "only regression tasks have one"),
    ],
)
def test_impossible_labels(tmp_path: Path, task: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(tmp_path, tasks=[task])  # type: ignore[arg-type]


def _train(world: World, config: Config) -> None:
    train(config, world)


def _evaluate(world: World, folder: str) -> list[dict[str, Any]]:
    return evaluation_records(folder, "latest", None, world)


def test_a_new_model_predicts_the_mean_of_every_label(dataset: Path, tmp_path: Path) -> None:
    """After one batch at a rate of next to nothing."""
    still = {"dense": {"learning_rate": 1e-9}, "sparse": {"learning_rate": 1e-9}}
    config = make_config(dataset, run={"dir": str(tmp_path / "run")}, train={"samples": 64}, optimizer=still)
    run_on_ranks(2, _train, config)
    rows = pq.read_table(dataset / "train").to_pydict()
    for record in read_records(tmp_path / "run" / "evaluations.jsonl"):
        labels = [value for value in rows[record["task"]] if value is not None]
        deviation = np.std(labels)
        assert record["prediction_mean"] == pytest.approx(np.mean(labels), abs=0.35 * deviation)
        assert 0.9 < (record["ne"] or record["nmse"]) < 1.15


def test_the_run_keeps_its_numbers(dataset: Path, tmp_path: Path) -> None:
    config = make_config(dataset, run={"dir": str(tmp_path / "run")}, train={"samples": 128})
    run_on_ranks(1, _train, config)
    kept = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    ages = [age for age in pq.read_table(dataset / "train")["age"].to_pylist() if age is not None]
    assert kept["features"]["dense"][0]["mean"] == pytest.approx(np.log1p(ages).mean(), rel=1e-6)
    assert kept["tasks"][1]["label_mean"] == pytest.approx(0.5, abs=0.1)

    further = make_config(dataset, run={"dir": str(tmp_path / "run")}, train={"samples": 256})
    run_on_ranks(2, _train, further)
    assert RunDirectory(tmp_path / "run").read_config().tasks == parse_config(kept, "kept").tasks
    expected = [record for record in read_records(tmp_path / "run" / "evaluations.jsonl") if record["samples"] == 256]
    found = run_on_ranks(1, _evaluate, str(tmp_path / "run"))[0]
    assert [record["log_loss"] for record in found] == pytest.approx([record["log_loss"] for record in expected])
    assert json.dumps(kept).count("label_mean") == 3


def test_quantiles_become_numbers_that_a_resume_keeps(tmp_path: Path) -> None:
    def config_of(boundaries: str) -> Config:
        bucketed = {"column": "age", "name": "bucket", "table": "user", "boundaries": boundaries}
        sparse = [*config_values(tmp_path)["features"]["sparse"], bucketed]
        return make_config(tmp_path, features={"sparse": sparse})

    config = config_of("quantiles:4")
    assert not is_complete(config)
    found = complete(config, replace(STATISTICS, boundaries={"bucket": (1.0, 2.5)}))
    assert is_complete(found)
    assert found.features.sparse[-1].boundaries == (1.0, 2.5)
    assert difference(plain(found), plain(complete_from(config, found))) is None
    other = difference(plain(found), plain(complete_from(config_of("quantiles:5"), found)))
    assert other is not None
    assert other[0] == "features.sparse.3.boundaries"
    assert parse_config(plain(found), "test") == found
