"""`adatt bench train` on rows that it makes up."""

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parts import PARTS
from benchmarks.train import bench_train
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from trainer.cli.benchmark_tables import bench_table
from trainer.config.load import load_config
from trainer.config.run_config import Config
from trainer.distributed.world import World


def _bench(world: World, config: Config) -> dict[str, Any]:
    return bench_train(config, world, batches=2, random_ids=3)


@pytest.mark.parametrize("size", [1, 2])
def test_the_parts_of_a_step_are_timed_without_any_data(tmp_path: Path, size: int) -> None:
    result = run_on_ranks(size, _bench, make_config(tmp_path))[0]
    for part in PARTS:
        assert 0 < result[f"{part}_seconds"] < math.inf
    assert result["bottleneck"] == max(PARTS, key=lambda part: result[f"{part}_seconds"])
    assert (result["exchange_limit_seconds"] > 0) == (size > 1)
    assert bench_table(result).row_count == 23
    assert list(tmp_path.iterdir()) == []  # what it wrote is gone


def test_the_config_that_embeddings_bound() -> None:
    config = load_config("configs/bench-embeddings.toml")
    assert (len(config.features.sparse), len(config.tables)) == (40, 26)
    assert {table.dim for table in config.tables} == {64}
    rows = [table.rows for table in config.tables]
    assert (min(rows), max(rows)) == (100_000, 2_000_000)
