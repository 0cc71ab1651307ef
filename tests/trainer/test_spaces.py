"""Tasks with a space, weights of their own, and products of them: metrics are those of a slow reading."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.training import train_or_explain
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.prediction.predict import predict_run
from trainer.run.directory import RunDirectory
from trainer.run.records import read_evaluations
from trainer.train import train

TASKS = [
    {"name": "click", "kind": "binary", "label": "click"},
    {
        "name": "rare_if_click",
        "kind": "binary",
        "label": "rare",
        "where": "click == 1 and age < 30",
        "weight_column": "weight",
    },
    {"name": "both", "kind": "product", "of": ["click", "rare_if_click"], "label": "rare"},
    {"name": "watch", "kind": "regression", "label": "watch", "where": "not video in (v1, 'v2')"},
]


def _train_and_predict(world: World, config: Config, out: str) -> None:
    train(config, world)
    predict_run(config.run.dir, "latest", str(config.data.test), out, "", world)


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By the number of ranks; predictions of the test set lie in `scores`."""
    folder = tmp_path_factory.mktemp("spaces")
    for ranks in (1, 2, 4):
        run = folder / str(ranks)
        config = make_config(dataset, run={"dir": str(run / "run")}, tasks=TASKS)
        run_on_ranks(ranks, _train_and_predict, config, str(run / "scores"))
    return {ranks: folder / str(ranks) for ranks in (1, 2, 4)}


def records(run: Path) -> dict[str, dict[str, Any]]:
    return {record.task: record.model_dump() for record in read_evaluations(RunDirectory(run / "run").evaluations)}


def test_metrics_are_those_of_the_rows_in_the_space(dataset: Path, runs: dict[int, Path]) -> None:
    rows = pq.read_table(dataset / "test").to_pandas()
    scores = pq.read_table(runs[1] / "scores").to_pandas()
    found = records(runs[1])

    is_inside = (rows.click == 1) & (rows.age < 30) & rows.rare.notna()
    inside, predicted = rows[is_inside], scores.rare_if_click[is_inside]
    share = np.average(inside.rare, weights=inside.weight)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    loss = log_loss(inside.rare, predicted, sample_weight=inside.weight, labels=[0, 1])
    assert 0 < len(inside) < len(rows) / 2
    assert found["rare_if_click"]["examples"] == len(inside)
    assert found["rare_if_click"]["ne"] == pytest.approx(loss / entropy, rel=1e-5)
    auc = roc_auc_score(inside.rare, predicted, sample_weight=inside.weight)
    assert found["rare_if_click"]["auc"] == pytest.approx(auc, rel=1e-9)
    calibration = np.average(predicted, weights=inside.weight) / share
    assert found["rare_if_click"]["calibration"] == pytest.approx(calibration, rel=1e-5)

    known = rows.rare.notna()
    product = scores.click * scores.rare_if_click
    assert np.allclose(scores.both, product, rtol=1e-5)
    assert found["both"]["examples"] == known.sum()
    assert found["both"]["log_loss"] == pytest.approx(log_loss(rows.rare[known], product[known]), rel=1e-5)

    is_other = ~rows.video.isin(["v1", "v2"])
    assert found["watch"]["examples"] == is_other.sum()
    assert found["watch"]["mse"] == pytest.approx(((rows.watch - scores.watch)[is_other] ** 2).mean(), rel=1e-5)


def test_it_is_the_same_on_any_number_of_ranks(runs: dict[int, Path]) -> None:
    first = records(runs[1])
    for ranks in (2, 4):
        for task, record in records(runs[ranks]).items():
            numbers = {key: value for key, value in record.items() if isinstance(value, float) and key != "seconds"}
            auc = numbers.pop("auc", None)
            assert numbers == pytest.approx({key: first[task][key] for key in numbers}, rel=1e-5)
            assert auc == pytest.approx(first[task]["auc"], abs=1e-4)  # two rows may change places
            assert record["examples"] == first[task]["examples"]


def _explain(world: World, dataset: Path, run: str, tasks: list[dict[str, Any]]) -> str | None:
    try:
        config = make_config(dataset, run={"dir": run}, tasks=tasks)
    except ConfigError as error:
        return str(error)
    return train_or_explain(world, config)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no condition": ({"where": "click =="}, "'click ==' has its end where a value should be; write comparisons"),
    "no column": ({"where": "clik == 1"}, "no column 'clik', which the config names"),
    "text with a number's column": (
        {"where": "age == old"},
        "column 'age' is float, but a task's where compares it with 'old'",
    ),
    "of without a product": ({"of": ["click"]}, "only products have it"),
    "one factor": ({"kind": "product", "of": ["click"]}, "is the product of ['click']; name two tasks or more"),
    "no such factor": ({"kind": "product", "of": ["click", "watched"]}, "did you mean 'watch'?"),
    "a regression": ({"kind": "product", "of": ["click", "watch"]}, "which is regression, not binary"),
    "weights that are text": ({"weight_column": "video"}, "column 'video' is string, not a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused(dataset: Path, tmp_path: Path, case: str) -> None:
    keys, expected = REFUSED[case]
    tasks = [*TASKS, {"name": "new", "kind": "binary", "label": "click", **keys}]
    (message,) = run_on_ranks(1, _explain, dataset, str(tmp_path / "run"), tasks)
    assert expected in str(message)
