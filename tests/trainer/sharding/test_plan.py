"""Where tables lie: no plan leaves a rank with an empty shard, and every plan trains like one rank.

`docs/architecture.md` says what fbgemm does with an empty shard, and TorchRec with means in a plan that splits some of
the tables by rows and others not.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.batch import Batch
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.training import evaluation_records
from trainer.build_model import build_sharded_model
from trainer.checkpoint.manager import features_of, tensors_of
from trainer.checkpoint.true_rows import without_padding
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.run.jsonl import read_records
from trainer.train import train

Array = np.ndarray[Any, np.dtype[np.float32]]
GLOBAL_BATCH, STEPS = 32, 4
ALLOWED = (["table_wise", "row_wise", "table_row_wise"], ["row_wise"], ["table_row_wise"])


@dataclass(frozen=True)
class Trained:
    """What a few steps leave behind."""

    losses: list[float]
    tables: dict[str, Array]
    state: dict[str, Array]
    sharding: dict[str, str]


def tables_config(tables: list[dict[str, Any]], **sections: Any) -> Config:
    """A config with these tables, one feature each."""
    sparse = [{"column": f"of {table['name']}", "table": table["name"]} for table in tables]
    values: dict[str, Any] = {
        "run": {"dir": "unused"},
        "data": {"train": "unused", "test": "unused", "global_batch_size": GLOBAL_BATCH, "lanes": 8},
        "features": {"sparse": sparse},
        "tables": tables,
        "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
        "model": {"head": "shared_bottom", "levels": [[8]], "tower": []},
        "train": {"samples": 1000},
    }
    return parse_config(values | sections, "test")


def table(name: str, rows: int, dim: int = 4, pooling: str = "sum") -> dict[str, Any]:
    return {"name": name, "rows": rows, "dim": dim, "pooling": pooling, "init": 0.5}


def batches(config: Config, world: World, steps: int = STEPS) -> Iterator[Batch]:
    """This rank's share of random global batches: up to three ids for each feature."""
    rows = GLOBAL_BATCH // world.size
    mine = slice(world.rank * rows, (world.rank + 1) * rows)
    random = np.random.Generator(np.random.Philox(5))
    for _ in range(steps):
        bags = [random.integers(0, table.rows, (GLOBAL_BATCH, 3))[mine] for table in config.tables]
        lengths = [random.integers(0, 4, GLOBAL_BATCH)[mine] for _ in config.tables]
        present = [np.arange(3) < length[:, None] for length in lengths]
        values = np.concatenate([bag[there] for bag, there in zip(bags, present, strict=True)])
        labels_BT = torch.from_numpy(random.integers(0, 2, (GLOBAL_BATCH, 1))[mine]).float()
        yield Batch(
            sparse=KeyedJaggedTensor(
                keys=[feature.name for feature in config.features.sparse],
                values=torch.from_numpy(values),
                lengths=torch.from_numpy(np.concatenate(lengths).astype("int32")),
            ),
            dense_BD=torch.zeros(rows, 0),
            labels_BT=labels_BT,
            label_weights_BT=torch.ones(rows, 1),
            weights_B=torch.ones(rows),
            row_ids_B=torch.arange(rows),
        )


def train_some(world: World, configs: list[Config]) -> list[Trained]:
    """A few steps under each config."""
    return [_train(world, config) for config in configs]


def _train(world: World, config: Config) -> Trained:
    sharded = build_sharded_model(config, world, 1000)
    feed = batches(config, world)
    outcomes = [sharded.pipeline.progress(feed) for _ in range(STEPS)]
    losses = [float(world.sum(output.loss_T.clone())) for output in outcomes]
    sharding = {placement.table: placement.sharding for placement in sharded.placements}
    kept = without_padding(tensors_of(sharded.model, sharded.optimizer), features_of(sharded.model))
    sums = {name: value for parameter in kept["optimizer"]["state"].values() for name, value in parameter.items()}
    return Trained(losses, whole(world, kept["model"]), whole(world, sums), sharding)


def whole(world: World, tensors: dict[str, Any]) -> dict[str, Array]:
    """Every sharded tensor in one piece."""
    sharded = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, ShardedTensor)}
    mine = {
        name: [(shard.metadata.shard_offsets, shard.tensor.detach().numpy()) for shard in tensor.local_shards()]
        for name, tensor in sharded.items()
    }
    sizes: dict[str, list[int]] = {}
    for of_rank in world.gather({name: list(tensor.metadata().size) for name, tensor in sharded.items()}):
        sizes |= of_rank
    pieces = {name: np.full(size, np.nan, dtype=np.float32) for name, size in sizes.items()}
    for of_rank in world.gather(mine):
        for name, shards in of_rank.items():
            for offsets, values in shards:
                place = tuple(slice(begin, begin + num) for begin, num in zip(offsets, values.shape, strict=True))
                pieces[name][place] = values
    return pieces


def small_tables(size: int) -> list[Config]:
    """Models with tables of 1 … 2·size + 1 rows: each alone under its pooling, and all of them beside each other."""
    counts = range(1, 2 * size + 2)
    poolings = ("sum", "mean")
    alone = [[table("a", rows), table("b", rows, 8, "mean")] for rows in counts]
    equal = [table(f"{pooling}-{rows}", rows, 8, pooling) for pooling, rows in product(poolings, counts)]
    mixed = [
        table(f"{pooling}-{rows}-{dim}", rows, dim, pooling) for pooling, rows, dim in product(poolings, counts, (4, 8))
    ]
    configs = [tables_config(tables, sharding={"allow": ["row_wise"]}) for tables in alone]
    for allow in ALLOWED:
        configs += [tables_config(tables, sharding={"allow": allow}) for tables in (equal, mixed)]
    return configs


@pytest.mark.parametrize("size", [2, 4, 8])
def test_tables_of_few_rows_train_alike_on_any_ranks(size: int) -> None:
    """Each group of them mixes, from some number of rows on, tables on one rank with tables on all."""
    configs = small_tables(size)
    expected = run_on_ranks(1, train_some, configs, timeout_s=600)[0]
    found = run_on_ranks(size, train_some, configs, timeout_s=600)[0]
    for one, many in zip(expected, found, strict=True):
        assert_alike(one, many)
    of_all = found[-1].sharding
    assert of_all["sum-1-4"] == of_all[f"mean-{size - 1}-4"] == "table_wise"
    assert of_all[f"sum-{size}-4"] == of_all[f"mean-{2 * size}-8"] == "table_row_wise"


def test_tables_of_few_rows_on_two_nodes() -> None:
    """Three rows can be split over the two ranks of a node, not over all four."""
    tables = [table("three", 3), table("one", 1, 8, "mean"), table("five", 5, 8, "mean"), table("ten", 10)]
    configs = [tables_config(tables, sharding={"allow": allow}) for allow in ALLOWED]
    expected = run_on_ranks(1, train_some, configs, timeout_s=600)[0]
    found = run_on_ranks(4, _train_some_on_two_nodes, configs, timeout_s=600)[0]
    for one, many in zip(expected, found, strict=True):
        assert_alike(one, many)
    assert found[1].sharding == {
        "three": "table_wise", "one": "table_wise", "five": "table_wise", "ten": "row_wise"
    }  # fmt: skip
    assert found[2].sharding == {
        "three": "table_row_wise", "one": "table_wise", "five": "table_row_wise", "ten": "table_row_wise"
    }  # fmt: skip


def _train_some_on_two_nodes(world: World, configs: list[Config]) -> list[Trained]:
    os.environ["LOCAL_WORLD_SIZE"] = "2"  # where torchrec looks for the size of a node
    return train_some(replace(world, local_rank=world.rank % 2, local_size=2), configs)


NAMES = [
    "items",
    "keys",
    "values",
    "pop",
    "update",
    "forward",
    "training",
    "weight",
    "_x",
    "__class__",
    "state",
    "-",
    "0",
]
NAMES += ["User", "user", "model", "optimizer", "embedding_bags", "named_parameters", "_modules", "None", "momentum1"]
FEATURE_NAMES = [
    "a.b",
    "forward",
    "it's",
    'a"b',
    "new\nline",
    "日本",
    "{x}",
    "a@b",
    "weights",
    " ",
    "a/b",
    "\\",
    "len",
    "[red]",
]


def test_any_name_of_a_table_or_feature_trains_alike_on_two_ranks() -> None:
    """What `nn.ModuleDict`, a state dict, or code that is generated from names could trip over."""
    tables = [table(name, 5 + number) for number, name in enumerate(NAMES)]
    features = [{"column": "c", "name": name, "table": NAMES[index]} for index, name in enumerate(FEATURE_NAMES)]
    features += [{"column": "c", "name": name, "table": name} for name in NAMES[len(FEATURE_NAMES) :]]
    config = tables_config(tables, features={"sparse": features}, sharding={"allow": ["row_wise", "table_wise"]})
    one, two = (run_on_ranks(size, train_some, [config], timeout_s=600)[0][0] for size in (1, 2))
    assert len(one.tables) == len(one.state) == len(NAMES)
    assert list(one.sharding) == NAMES
    assert_alike(one, two)


def test_small_tables_of_odd_names_resume_and_evaluate_on_other_ranks(dataset: Path, tmp_path: Path) -> None:
    """On four ranks each table lies on one, on two ranks on both."""
    sections: dict[str, Any] = {
        "tables": [{"name": "items", "rows": 5, "dim": 8, "pooling": "mean"}, {"name": "pop", "rows": 9, "dim": 4}],
        "features": {
            "sparse": [
                {"column": "user", "table": "items", "hash": True},
                {"column": "recent", "table": "items", "hash": True},
                {"column": "video", "table": "pop", "hash": True},
            ]
        },
        "sharding": {"allow": ["row_wise"]},
    }

    def config(folder: str, samples: int) -> Config:
        return make_config(dataset, run={"dir": str(tmp_path / folder)}, train={"samples": samples}, **sections)

    run_on_ranks(1, train_run, config("whole", 768), timeout_s=600)
    for size, samples in ((4, 256), (2, 512), (1, 768)):
        run_on_ranks(size, train_run, config("parts", samples), timeout_s=600)
    whole_run, parts = (
        [r["loss"] for r in read_records(tmp_path / name / "train.jsonl")] for name in ("whole", "parts")
    )
    np.testing.assert_allclose(parts, whole_run, rtol=1e-4)

    found = [run_on_ranks(size, evaluate_parts, str(tmp_path / "parts"), timeout_s=600)[0] for size in (1, 2, 4)]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-6)


def train_run(world: World, config: Config) -> None:
    train(config, world)


def evaluate_parts(world: World, folder: str) -> list[float]:
    return [record["log_loss"] or record["mse"] for record in evaluation_records(folder, "latest", None, world)]


def assert_alike(one: Trained, many: Trained) -> None:
    """Losses, weights and the optimizer's state."""
    told = str(many.sharding)
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-5, err_msg=told)
    for expected, found in ((one.tables, many.tables), (one.state, many.state)):
        assert expected.keys() == found.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=f"{name}, {told}")
