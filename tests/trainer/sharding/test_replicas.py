"""Copies of the tables that are averaged (2D parallelism); the program in cpu_replicas.py stands in for GPUs."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values
from tests.trainer.sharding.cpu_replicas import use_cpu_copies
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.planning.plan import Size
from trainer.planning.sweep import plan_sizes
from trainer.run.jsonl import read_records
from trainer.sharding.devices import check_device
from trainer.sharding.plan import Ranks
from trainer.sharding.replicas import ranks_of_copy
from trainer.sharding.settings import ShardingConfig
from trainer.train import train

ROOT = Path(__file__).parents[3]


def _values(dataset: Path, run: Path, samples: int, replicas: int) -> dict[str, Any]:
    return config_values(
        dataset,
        run={"dir": str(run)},
        train={"samples": samples},
        sharding={"allow": ["row_wise"], "replicas": replicas},
        checkpoint={"every_samples": 320, "keep": 100},
    )


def _train_copies(world: World, values: dict[str, Any]) -> None:
    use_cpu_copies()
    _train(world, values)


def _losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_records(run / "train.jsonl")]


def _train(world: World, values: dict[str, Any]) -> None:
    train(parse_config(values, "test"), world)


def test_copies_averaged_after_every_step_of_sgd_are_one_table(dataset: Path, tmp_path: Path) -> None:
    """The mean of w - rate · gradient over the copies is that of the mean gradient; a checkpoint goes on with it."""
    optimizer = {"dense": {"learning_rate": 1e-3, "decay": "none"}, "sparse": {"name": "sgd", "learning_rate": 0.5}}
    run_on_ranks(1, _train, _values(dataset, tmp_path / "one", 960, 1) | {"optimizer": optimizer})
    for samples in (320, 960):
        values = _values(dataset, tmp_path / "copies", samples, 2) | {"optimizer": optimizer}
        run_on_ranks(4, _train_copies, values)
    np.testing.assert_allclose(_losses(tmp_path / "copies"), _losses(tmp_path / "one"), rtol=1e-5)


def test_copies_that_cannot_be_are_refused(dataset: Path) -> None:
    sharding = ShardingConfig(replicas=3)
    with pytest.raises(ConfigError, match=r"replicas = 3 does not divide the 4 ranks of a node"):
        ranks_of_copy(sharding, Ranks(8, 4, "cuda"))
    config = parse_config(_values(dataset, dataset / "run", 64, 3), "test")
    with pytest.raises(ConfigError, match=r"replicas = 3 needs GPUs.*; use 1"):
        check_device(config.tables, config.optimizer.sparse, sharding, "cpu")
    check_device(config.tables, config.optimizer.sparse, sharding, "cuda")


def test_a_plan_with_copies_has_fewer_ranks_to_exchange_with_and_more_memory_to_fill() -> None:
    plans = [plan_sizes(_industrial(replicas), [16], "h100", None, [])[0] for replicas in (1, 2)]
    one, two = plans
    assert isinstance(one, Size)
    assert isinstance(two, Size)
    assert len(two.memory) == 16
    assert [memory.tables for memory in two.memory[::2]] == [memory.tables for memory in two.memory[1::2]]
    tables = [sum(memory.tables for memory in plan.memory) for plan in plans]
    assert tables[1] == pytest.approx(2 * tables[0], rel=0.01)
    assert two.parts.exchange < one.parts.exchange
    assert two.parts.averaging > 0
    assert two.checkpoint_bytes == pytest.approx(one.checkpoint_bytes, rel=0.01)


def _industrial(replicas: int) -> Config:
    """With tables of a hundredth of the rows."""
    path = ROOT / "configs" / "industrial.toml"
    values = tomllib.loads(path.read_text())
    for table in values["tables"]:
        table["rows"] = max(table["rows"] // 100, 1000)
    for feature in values["features"]["sparse"]:
        if "buckets" in feature:
            del feature["buckets"]
    values["sharding"] = {"replicas": replicas, "replica_sync_samples": 10_000_000}
    return parse_config(values, "test")
