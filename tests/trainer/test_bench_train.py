"""`adatt bench train` on rows that it makes up."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from benchmarks.parts import PARTS
from benchmarks.train import _block_seconds, bench_train
from models.balancers.balancer import Balancer
from models.balancers.by_gradients import ConstantConfig
from tests.models.balancers.tasks import binary_tasks
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from trainer.cli.benchmark_tables import bench_table
from trainer.config.load import load_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.step.pipeline import GuardedPipeline


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


def test_every_step_begins_so_that_balancing_costs_what_it_does_in_training() -> None:
    """A gate that is never opened anew would keep the rows of all batches, and take their gradients again."""
    balancer = Balancer(ConstantConfig(observe=True, every=3), binary_tasks("ab"), global_batch_size=4, seed=1)
    ones_BT = torch.ones(4, 2)
    rows: list[int] = []

    def progress(_: object) -> None:
        y_BF = balancer.gate(torch.ones(4, 2, requires_grad=True) * 1)
        balancer(torch.stack([y_BF.sum(), y_BF.square().sum()]), ones_BT, ones_BT).backward()
        rows.append(sum(map(len, balancer.gate.parts)))
        balancer.commit()

    pipeline = cast(GuardedPipeline, SimpleNamespace(begin=balancer.begin, progress=progress))
    world = cast(World, SimpleNamespace(sum=lambda tensor: tensor, device=torch.device("cpu")))
    assert _block_seconds(pipeline, iter(()), 6, world) > 0
    assert rows == [4] * 6
    assert balancer.cosines is not None
    assert balancer.cosines.means().steps == 2  # of 6, every third


def test_the_config_that_embeddings_bound() -> None:
    config = load_config("configs/bench-embeddings.toml")
    assert (len(config.features.sparse), len(config.tables)) == (40, 26)
    assert {table.dim for table in config.tables} == {64}
    rows = [table.rows for table in config.tables]
    assert (min(rows), max(rows)) == (100_000, 2_000_000)
