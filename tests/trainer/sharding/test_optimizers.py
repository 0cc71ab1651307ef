"""Schedules over samples, and that every optimizer trains as its definition says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from trainer.build_model import build_sharded_model
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.sharding.settings import Schedule


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({}, [1, 1, 1, 1]),
        ({"warmup_samples": "200"}, [0, 0.5, 1, 1]),
        ({"decay": "linear"}, [1, 0.9, 0.6, 0]),
        ({"decay": "cosine", "decay_to": 0.5}, [1, 0.9878, 0.8273, 0.5]),
        ({"decay": "linear", "warmup_samples": 200}, [0, 0.5, 0.75, 0]),
    ],
)
def test_schedule(schedule: dict[str, Any], factors: list[float]) -> None:
    found = [Schedule(**schedule).factor(samples, 1000) for samples in (0, 100, 400, 1000)]
    assert found == pytest.approx(factors, abs=1e-4)


def _step_table(world: World, config: Config) -> list[Any]:
    """Weights of the user table before and after a step whose gradient of pooled user embeddings is known."""
    sharded = build_sharded_model(config, world, 1000)
    collection: Any = sharded.model.module.features.embeddings
    lengths = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0])
    ids = KeyedJaggedTensor(["user", "video", "recent"], torch.tensor([3, 5, 3]), lengths=lengths)
    name = "features.embeddings.embedding_bags.user.weight"
    weights = [sharded.model.state_dict()[name].local_shards()[0].tensor.clone()]
    for _ in range(2):
        collection(ids)["user"].square().sum().backward()
        sharded.optimizer.schedule(0)
        sharded.optimizer.combined.step()
        weights.append(sharded.model.state_dict()[name].local_shards()[0].tensor.clone())
    return torch.stack(weights).tolist()  # a tensor would be shared with a process that has ended


@pytest.mark.parametrize("name", ["rowwise_adagrad", "adagrad", "sgd"])
def test_fused_optimizer_follows_its_definition(dataset: Path, name: str) -> None:
    rate = 0.1
    eps = 0.64
    config = make_config(dataset, optimizer={"sparse": {"name": name, "learning_rate": rate, "eps": eps}})
    eps /= config.data.global_batch_size
    before_RD, once_RD, _ = torch.tensor(run_on_ranks(1, _step_table, config)[0])
    row = before_RD[3]
    gradient = 2 * row * 2  # row 3 is looked up twice
    expected = {
        "sgd": rate * gradient,
        "adagrad": rate * gradient / (gradient.abs() + eps),
        "rowwise_adagrad": rate * gradient / (gradient.square().mean().sqrt() + eps),
    }[name]
    torch.testing.assert_close(row - once_RD[3], expected, rtol=1e-4, atol=1e-6)
    touched = (before_RD != once_RD).any(dim=1).nonzero().flatten().tolist()
    assert touched == [3, 5]
