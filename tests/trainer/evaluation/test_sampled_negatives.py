"""A test set with half of the negatives has the metrics of the whole one; predictions are those of the whole log."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.training import evaluation_records
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.prediction.predict import predict_run
from trainer.train import train

RATE = 0.5
METRICS = ("weight", "log_loss", "ne", "auc", "calibration", "prediction_mean", "label_mean", "oracle_ne")


def _train(world: World, config: Config) -> None:
    train(config, world)


def _evaluate(world: World, run: str, data: str) -> list[dict[str, Any]]:
    return evaluation_records(run, "latest", data, world)


def _predict(world: World, run: str, data: str, out: str) -> None:
    predict_run(run, "latest", data, out, "", world)


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Trained alike."""
    root = tmp_path_factory.mktemp("sampled")
    keys: dict[str, dict[str, float]] = {
        "both": {"negative_rate": RATE},
        "training": {"negative_rate": RATE, "test_negative_rate": 1.0},
        "none": {},
    }
    for name, rates in keys.items():
        click = {"name": "click", "kind": "binary", "label": "click", **rates}
        rare = {"name": "rare", "kind": "binary", "label": "rare"}
        config = make_config(dataset, run={"dir": str(root / name)}, tasks=[click, rare], train={"samples": 320})
        run_on_ranks(1, _train, config)
    return {name: str(root / name) for name in keys}


@pytest.mark.parametrize("world_size", [1, 2])
def test_metrics_are_those_of_the_whole_test_set(
    dataset: Path, runs: dict[str, str], tmp_path: Path, world_size: int
) -> None:
    sampled = pq.read_table(dataset / "test")
    whole = pa.concat_tables([sampled, sampled.filter(pc.equal(sampled["click"], 0))])
    (tmp_path / "whole").mkdir()
    pq.write_table(whole, tmp_path / "whole" / "a.parquet", row_group_size=50)

    found = run_on_ranks(world_size, _evaluate, runs["both"], str(dataset / "test"))[0][0]
    expected = run_on_ranks(1, _evaluate, runs["training"], str(tmp_path / "whole"))[0][0]
    assert {key: found[key] for key in METRICS} == pytest.approx({key: expected[key] for key in METRICS}, rel=1e-9)
    assert found["examples"] == sampled.num_rows


def test_predictions_are_those_of_the_whole_log(dataset: Path, runs: dict[str, str], tmp_path: Path) -> None:
    scores = []
    for name in ("both", "none"):
        run_on_ranks(1, _predict, runs[name], str(dataset / "test"), str(tmp_path / name))
        scores.append(pq.read_table(tmp_path / name))
    odds = [table["click"].to_numpy() / (1 - table["click"].to_numpy()) for table in scores]
    np.testing.assert_allclose(odds[0], RATE * odds[1], rtol=1e-5)
    assert scores[0]["rare"].equals(scores[1]["rare"])
