"""Copies of the tables that are averaged (2D parallelism); the program in cpu_replicas.py stands in for GPUs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch

from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values
from trainer.config.load import parse_config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.jsonl import read_records
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


def _train_copies(values: dict[str, Any], folder: Path, ranks: int = 4) -> None:
    config = folder / "config.toml"
    config.write_text(tomli_w.dumps(values))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    program = ["-m", "tests.trainer.sharding.cpu_replicas", "train", str(config)]
    environment = os.environ | {"PYTHONOPTIMIZE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launch, *program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def _losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_records(run / "train.jsonl")]


def _train(world: World, values: dict[str, Any]) -> None:
    train(parse_config(values, "test"), world)


def test_copies_averaged_after_every_step_of_sgd_are_one_table(dataset: Path, tmp_path: Path) -> None:
    """The mean of w - rate · gradient over the copies is that of the mean gradient; a checkpoint goes on with it."""
    optimizer = {"dense": {"learning_rate": 1e-3, "decay": "none"}, "sparse": {"name": "sgd", "learning_rate": 0.5}}
    run_on_ranks(1, _train, _values(dataset, tmp_path / "one", 960, 1) | {"optimizer": optimizer})
    for samples in (320, 960):
        _train_copies(_values(dataset, tmp_path / "copies", samples, 2) | {"optimizer": optimizer}, tmp_path)
    np.testing.assert_allclose(_losses(tmp_path / "copies"), _losses(tmp_path / "one"), rtol=1e-5)


@pytest.mark.parametrize(
    ("local_size", "device", "message"),
    [(4, "cpu", r"sharding.replicas = 3 needs GPUs.*; use 1"), (4, "cuda", r"does not divide the 4 ranks of a node")],
)
def test_copies_that_cannot_be_are_refused(local_size: int, device: str, message: str) -> None:
    world = World(0, 8, 0, local_size, torch.device(device))
    with pytest.raises(ConfigError, match=message):
        ranks_of_copy(ShardingConfig(replicas=3), world)
