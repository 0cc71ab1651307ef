"""Tables with optimizers of their own train as these are defined, on any ranks, beside tables that notice nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from models.tables import table_key
from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.sharding.test_plan import GLOBAL_BATCH, Array, table, tables_config, whole
from tests.trainer.test_warm_start import USER, USER_STATE, VIDEO_STATE, begin, parts_of, read_weights
from tests.trainer.training import train_or_explain
from trainer.build_model import build_sharded_model
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.jsonl import read_records
from trainer.sharding.settings import SparseOptimizerConfig

OWN: dict[str, dict[str, Any]] = {
    "as all": {},
    "rate": {"learning_rate": 0.05},
    "adagrad": {"name": "adagrad", "eps": 2.0},
    "sgd": {"name": "sgd", "learning_rate": 0.01},
    "rowwise": {"name": "rowwise_adagrad", "learning_rate": 0.4, "eps": 0.3},
    "items": {"learning_rate": 0.5},
    "half": {},
    "half-adagrad": {"name": "adagrad", "learning_rate": 0.3},
}
ROWS, DIM, SCHEDULED = 6, 8, 40
IDS = [[3, 3, 5], [0, 3], [5, 1, 1, 4]]
"""Of every table, step by step."""


def own_optimizers(**own: dict[str, Any]) -> Config:
    """Tables that have their own optimizers, and others beside them."""
    tables = [table(name.replace(" ", "-"), ROWS, DIM) | {"optimizer": keys} for name, keys in (OWN | own).items()]
    tables = [entry | {"dtype": "float16" if "half" in entry["name"] else "float32"} for entry in tables]
    sparse = {"name": "rowwise_adagrad", "learning_rate": 0.1, "eps": 0.64, "warmup_samples": 4 * SCHEDULED}
    return tables_config(tables, optimizer={"sparse": sparse})


def _step_all(world: World, config: Config) -> list[dict[str, Array]]:
    """All tables before the first step and after each; the loss is the sum of squares of what is looked up."""
    sharded = build_sharded_model(config, world, 1000)
    collection: Any = sharded.model.module.features.embeddings
    keys = [feature.name for feature in config.features.sparse]
    weights = [whole(world, sharded.model.state_dict())]
    for step, ids in enumerate(IDS):
        sharded.optimizer.schedule(SCHEDULED * step)
        sharded.optimizer.combined.zero_grad()
        values = torch.tensor(ids * len(keys))
        found = collection(KeyedJaggedTensor(keys, values, lengths=torch.tensor([len(ids)] * len(keys))))
        torch.stack([found[key].square().sum() for key in keys]).sum().backward()
        weights.append(whole(world, sharded.model.state_dict()))
    return weights


def read_slowly(before_RD: Array, optimizer: SparseOptimizerConfig, dtype: str) -> list[Array]:
    """The table after each step, by the definition of its optimizer, number by number in float64, rounded once."""
    rows = before_RD.astype(np.float64)
    sums = np.zeros_like(rows)
    after = []
    for step, ids in enumerate(IDS):
        rate = optimizer.learning_rate * SCHEDULED * step / optimizer.warmup_samples
        eps = optimizer.eps / GLOBAL_BATCH
        pooled_D = sum(rows[row] for row in ids)
        for row in sorted(set(ids)):
            gradient_D = 2 * pooled_D * ids.count(row)
            is_rowwise = optimizer.name == "rowwise_adagrad"
            sums[row] += (gradient_D**2).mean() if is_rowwise else gradient_D**2
            by_D = 1 if optimizer.name == "sgd" else np.sqrt(sums[row]) + eps
            change_D = rate * gradient_D / by_D
            if dtype == "float16":  # fbgemm on CPUs rounds the change itself too, but for rowwise Adagrad
                change_D = change_D if is_rowwise else change_D.astype(np.float16)
                rows[row] = (rows[row] - change_D).astype(np.float16)
            else:
                rows[row] -= change_D
        after.append(rows.copy())
    return after


@pytest.mark.parametrize("size", [1, 2])
def test_tables_have_optimizers_of_their_own(size: int) -> None:
    config = own_optimizers()
    before, *after = run_on_ranks(size, _step_all, config)[0]
    for entry in config.tables:
        name = f"features.embeddings.embedding_bags.{table_key(entry.name)}.weight"
        slowly = read_slowly(before[name], config.optimizer.sparse.of(entry), entry.dtype)
        for expected, found in zip(slowly, after, strict=True):
            np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6, err_msg=entry.name)
    assert not np.allclose(before[name], after[-1][name])


def test_other_tables_do_not_notice_an_optimizer_of_one() -> None:
    one, other = (run_on_ranks(1, _step_all, config)[0] for config in (own_optimizers(), own_optimizers(rate={})))
    differing = {name for name, values in one[-1].items() if not np.array_equal(values, other[-1][name])}
    assert differing == {"features.embeddings.embedding_bags.rate.weight"}


def test_tables_with_optimizers_of_their_own_train_alike_on_any_ranks_and_resume(tmp_path: Path, dataset: Path) -> None:
    """Adagrad beside rowwise Adagrad in one checkpoint, whatever ranks wrote it."""
    tables = [{"name": "user", "rows": 50, "dim": 8, "optimizer": {"name": "adagrad", "learning_rate": 0.05}}]
    tables.append({"name": "video", "rows": 200, "dim": 4, "optimizer": {"eps": 0.5}})

    def config(folder: str, samples: int, **more: Any) -> Config:
        run = {"dir": str(tmp_path / folder)}
        return make_config(dataset, **({"run": run, "train": {"samples": samples}, "tables": tables} | more))

    for ranks in (1, 2):
        assert run_on_ranks(ranks, train_or_explain, config(f"whole-{ranks}", 640)) == [None] * ranks
    for ranks, samples in ((2, 320), (2, 640), (1, 960)):
        assert run_on_ranks(ranks, train_or_explain, config("parts", samples)) == [None] * ranks
    one, two, parts = (
        [r["loss"] for r in read_records(tmp_path / n / "train.jsonl")] for n in ("whole-1", "whole-2", "parts")
    )
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert parts[: len(two)] == two
    state = read_weights(tmp_path / "parts", 960)
    assert state[USER_STATE].shape == (50, 8)
    assert state[VIDEO_STATE].shape == (200,)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"init": {"from": "x", "freeze": ["a"]}}, "init.freeze leaves table 'a' as it is by gradients of zero"),
        ({"train": {"samples": 64, "on_non_finite": "skip"}}, "which moves 'a' under adam or with weight_decay"),
        ({"optimizer": {"sparse": {"weight_decay": 0.1}}}, "would not be applied to table 'b': fbgemm's sgd knows"),
    ],
)
def test_what_an_optimizer_cannot_is_asked_of_each_table(sections: dict[str, Any], told: str) -> None:
    entries = [table("a", 8) | {"optimizer": {"name": "adam"}}, table("b", 8) | {"optimizer": {"name": "sgd"}}]
    with pytest.raises(ConfigError) as error:
        tables_config(entries, **sections)
    assert told in str(error.value)
    tables_config([table("a", 8), table("b", 8)], **sections)


def test_state_is_taken_from_another_run_where_the_optimizer_is_the_same(dataset: Path, tmp_path: Path) -> None:
    def config(folder: str, user: dict[str, Any], **more: Any) -> Config:
        tables = [{"name": "user", "rows": 50, "dim": 8, "optimizer": user}, {"name": "video", "rows": 64, "dim": 4}]
        run = {"dir": str(tmp_path / folder)}
        return make_config(dataset, run=run, train={"samples": 64}, tables=tables, **more)

    assert run_on_ranks(1, train_or_explain, config("source", {"name": "adagrad"})) == [None]
    init = {"from": str(tmp_path / "source")}
    for folder, keys in (("other", {}), ("same", {"name": "adagrad", "eps": 0.5})):
        run_on_ranks(1, begin, config(folder, keys, init=init))
    before, other, same = (
        read_weights(tmp_path / name, at) for name, at in (("source", 64), ("other", 0), ("same", 0))
    )
    assert torch.equal(before[USER], other[USER])
    assert not other[USER_STATE].any()
    assert torch.equal(before[USER_STATE], same[USER_STATE])
    assert torch.equal(before[VIDEO_STATE], other[VIDEO_STATE])
    assert (
        parts_of(tmp_path / "other")["table user"][1] == "optimizer state: adagrad in the source, rowwise_adagrad here"
    )
    assert parts_of(tmp_path / "same")["table user"] == ("all rows", "")
