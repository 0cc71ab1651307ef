"""A table that names its sharding is placed so, or the config is refused; whatever it names, it trains alike."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.sharding.test_plan import (
    STEPS,
    Trained,
    assert_alike,
    batches,
    evaluate_parts,
    table,
    tables_config,
    train_run,
    train_some,
    whole,
)
from tests.trainer.training import train_or_explain
from trainer.analysis.compare.seed_groups import head_identity
from trainer.build_model import build_sharded_model
from trainer.config.compatibility import differences
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.run.jsonl import read_records
from trainer.sharding.padding import padded_rows
from trainer.sharding.settings import algorithm_remarks

MIXED = {"a": "table_wise", "b": "row_wise", "c": "auto", "d": "table_row_wise", "e": "row_wise"}
ROWS = {"a": 1, "b": 100_000, "c": 5, "d": 1000, "e": 64}


def named(shardings: dict[str, str], rows: dict[str, int] = ROWS, **sections: Any) -> Config:
    """Tables that name their sharding."""
    tables = [table(name, rows[name], 8) | {"sharding": sharding} for name, sharding in shardings.items()]
    return tables_config(tables, **sections)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_tables_lie_as_they_name_it_and_train_alike(size: int) -> None:
    configs = [named(MIXED), named(MIXED, sharding={"allow": ["table_wise"]})]
    expected = run_on_ranks(1, train_some, configs, timeout_s=600)[0]
    found = run_on_ranks(size, train_some, configs, timeout_s=600)[0]
    for one, many in zip(expected, found, strict=True):
        assert_alike(one, many)
        assert {name: many.sharding[name] for name in "abde"} == {name: MIXED[name] for name in "abde"}
    assert found[1].sharding["c"] == "table_wise"


def test_sharding_may_change_between_starts_and_other_keys_of_a_table_may_not() -> None:
    before, now = named(MIXED), named(dict.fromkeys(MIXED, "auto"))
    assert differences(before, now) == []
    assert head_identity(before) == head_identity(now)
    wider = named(MIXED, rows=ROWS | {"b": 7})
    assert differences(before, wider) == [("tables.1.rows", "100000", "7")]


@given(rows=st.integers(1, 10**6), ranks=st.integers(1, 300))
def test_padded_rows_leave_no_rank_without_any(rows: int, ranks: int) -> None:
    held = padded_rows(rows, ranks)
    rows_per_rank = -(-held // ranks)
    assert rows <= held < rows + ranks
    assert held - rows_per_rank * (ranks - 1) > 0
    assert rows_per_rank == -(-rows // ranks)
    assert held == rows or -(-rows // ranks) * (ranks - 1) >= rows, "only where the last rank would have none"


FEW = {"a": 1, "b": 6, "c": 3, "d": 9, "e": 2}


@pytest.mark.parametrize(("size", "optimizer"), [(2, "rowwise_adagrad"), (4, "adagrad"), (8, "rowwise_adagrad")])
def test_tables_with_fewer_rows_than_ranks_can_be_split(size: int, optimizer: str) -> None:
    """fbgemm trains wrongly where a shard has no rows."""
    sections: dict[str, Any] = {"optimizer": {"sparse": {"name": optimizer}}}
    configs = [named(dict.fromkeys(FEW, sharding), FEW, **sections) for sharding in ("row_wise", "table_row_wise")]
    configs.append(named({"a": "row_wise", "b": "table_wise", "c": "row_wise", "d": "auto", "e": "row_wise"}, FEW))
    expected = run_on_ranks(1, train_some, configs, timeout_s=600)[0]
    found = run_on_ranks(size, train_some, configs, timeout_s=600)[0]
    for one, many in zip(expected, found, strict=True):
        assert_alike(one, many)
        assert [len(values) for values in many.tables.values()] == list(FEW.values())
    assert set(found[0].sharding.values()) == {"row_wise"}
    assert set(found[1].sharding.values()) == {"table_row_wise"}


def _beyond(world: World, config: Config) -> list[float]:
    """The largest change of a row that a table holds beyond its own, and its state, after some steps."""
    sharded = build_sharded_model(config, world, 1000)
    before = whole(world, sharded.model.state_dict())
    feed = batches(config, world)
    for _ in range(STEPS):
        sharded.pipeline.progress(feed)
    state = sharded.model.fused_optimizer.state_dict()["state"]
    after = whole(world, sharded.model.state_dict())
    sums = whole(world, {name: value for parameter in state.values() for name, value in parameter.items()})
    found = [abs(sums[f"{name}.momentum1"][rows:]).max() for name, rows in FEW.items()]
    for name, rows in FEW.items():
        key = f"features.embeddings.embedding_bags.{name}.weight"
        found.append(abs(after[key][rows:] - before[key][rows:]).max())
    return [float(value) for value in found]


def test_rows_beyond_a_table_are_never_touched() -> None:
    config = named(dict.fromkeys(FEW, "row_wise"), FEW)
    assert run_on_ranks(8, _beyond, config)[0] == [0.0] * 2 * len(FEW)


def test_padded_tables_resume_on_other_ranks_and_begin_other_runs(dataset: Path, tmp_path: Path) -> None:
    """`items` holds 8, 4 and 3 rows on so many ranks, in checkpoints always its three."""
    sparse = [{"column": column, "table": "items", "hash": True} for column in ("user", "recent", "video")]
    tables = [{"name": "items", "rows": 3, "dim": 8, "sharding": "row_wise"}]
    sections: dict[str, Any] = {"tables": tables, "features": {"sparse": sparse}}
    sections["data"] = {"lanes": 8}

    def config(folder: str, samples: int, **more: Any) -> Config:
        run = {"dir": str(tmp_path / folder)}
        return make_config(dataset, run=run, train={"samples": samples}, **(sections | more))

    run_on_ranks(1, train_run, config("whole", 768), timeout_s=600)
    for size, samples in ((8, 256), (2, 512), (4, 768)):
        run_on_ranks(size, train_run, config("parts", samples), timeout_s=600)
    whole_run, parts = ([r["loss"] for r in read_records(tmp_path / n / "train.jsonl")] for n in ("whole", "parts"))
    np.testing.assert_allclose(parts, whole_run, rtol=1e-4)
    found = [run_on_ranks(size, evaluate_parts, str(tmp_path / "parts"), timeout_s=600)[0] for size in (1, 8)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)

    init = {"from": str(tmp_path / "parts")}
    for size in (1, 4):
        run_on_ranks(size, train_run, config(f"next-{size}", 320, init=init), timeout_s=600)
    one, four = ([r["loss"] for r in read_records(tmp_path / f"next-{n}" / "train.jsonl")] for n in (1, 4))
    np.testing.assert_allclose(four, one, rtol=1e-4)


def by_columns(sharding: str, **sections: Any) -> Config:
    """Two tables split by columns, one of them smaller than a node, beside others."""
    tables = [table("a", 50, 16) | {"sharding": sharding, "column_shards": 2}]
    tables.append(table("b", 3, 8, "mean") | {"sharding": sharding, "column_shards": 2})
    tables += [table("c", 20, 8), table("d", 9, 16) | {"sharding": "row_wise"}]
    return tables_config(tables, **sections)


def train_on_nodes(world: World, configs: list[Config], local_size: int) -> list[Trained]:
    """A few steps under each config, on nodes of `local_size` ranks."""
    os.environ["LOCAL_WORLD_SIZE"] = str(local_size)
    return train_some(World(world.rank, world.size, world.rank % local_size, local_size, world.device), configs)


@pytest.mark.parametrize(("size", "local_size"), [(2, 2), (4, 2), (8, 4)])
def test_column_shards_are_one_algorithm_on_any_ranks(size: int, local_size: int) -> None:
    """The state of rowwise_adagrad has a number for each row and column shard."""
    configs = [by_columns(sharding) for sharding in ("column_wise", "table_column_wise", "grid")]
    configs.append(by_columns("grid", optimizer={"sparse": {"name": "adagrad"}}))
    expected = run_on_ranks(1, train_on_nodes, configs, 1, timeout_s=600)[0]
    found = run_on_ranks(size, train_on_nodes, configs, local_size, timeout_s=600)[0]
    for one, many in zip(expected, found, strict=True):
        assert_alike(one, many)
    for other in expected[1:3]:
        assert other.losses == expected[0].losses
    assert [found[0].state[f"{name}.momentum1"].shape for name in "abcd"] == [(100,), (6,), (20,), (9,)]
    assert found[3].state["b.momentum1"].shape == (3, 8)


def test_columns_with_elementwise_adagrad_are_the_same_algorithm() -> None:
    """With one state a row they are not."""
    tables = [table(name, rows, 16) for name, rows in (("a", 50), ("b", 3))]
    split = [entry | {"sharding": "column_wise", "column_shards": 4} for entry in tables]
    for name, is_same in (("adagrad", True), ("rowwise_adagrad", False)):
        sections: dict[str, Any] = {"optimizer": {"sparse": {"name": name}}}
        plain, columns = (tables_config(entries, **sections) for entries in (tables, split))
        one, two = (run_on_ranks(2, train_some, [config])[0][0] for config in (plain, columns))
        assert np.allclose(one.losses, two.losses, rtol=1e-6) == is_same
        assert (algorithm_remarks(columns.tables, columns.optimizer.sparse) == []) == is_same


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"sharding": "column_wise"}, "table 'a': sharding = 'column_wise' needs column_shards, such as 2"),
        ({"column_shards": 2}, "table 'a': sharding = 'auto' splits no columns, but column_shards is 2; remove it"),
        ({"sharding": "grid", "column_shards": 3}, "table 'a': dim = 16 does not make 3 column shards of a multiple"),
        ({"sharding": "data_parallel"}, "tables.0.sharding: input should be"),
    ],
)
def test_column_shards_that_cannot_be_are_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        tables_config([table("a", 50, 16) | keys])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_checkpoints_go_on_with_as_many_column_shards_only(dataset: Path, tmp_path: Path) -> None:
    """On other ranks, and under any other sharding by as many."""

    def config(folder: str, samples: int, sharding: str, shards: int, **more: Any) -> Config:
        split = {"sharding": sharding, "column_shards": shards}
        tables = [{"name": "user", "rows": 50, "dim": 8} | split, {"name": "video", "rows": 200, "dim": 4}]
        run = {"dir": str(tmp_path / folder)}
        return make_config(dataset, run=run, train={"samples": samples}, tables=tables, **more)

    assert run_on_ranks(1, train_or_explain, config("whole", 640, "column_wise", 2))[0] is None
    for size, samples, sharding in ((2, 256, "column_wise"), (4, 448, "grid"), (1, 640, "table_column_wise")):
        assert run_on_ranks(size, train_or_explain, config("parts", samples, sharding, 2))[0] is None
    whole_run, parts = ([r["loss"] for r in read_records(tmp_path / n / "train.jsonl")] for n in ("whole", "parts"))
    np.testing.assert_allclose(parts, whole_run, rtol=1e-4)

    told = run_on_ranks(2, train_or_explain, config("parts", 960, "auto", 1))
    assert told == [told[0]] * 2
    assert "tables.0.column_shards was 2, now 1 (each of them keeps an optimizer state of its own); name" in told[0]

    init = {"from": str(tmp_path / "parts")}
    (told,) = run_on_ranks(1, train_or_explain, config("next", 64, "auto", 1, init=init))
    assert told.startswith("init.tables: table 'user' has column_shards = 1 here, 2 in ")
    without_state = init | {"optimizer": False}
    assert run_on_ranks(1, train_or_explain, config("next", 64, "auto", 1, init=without_state)) == [None]
    assert run_on_ranks(2, train_or_explain, config("other", 64, "grid", 2, init=init))[0] is None


LADDER = {"one": 1, "six": 6, "thousand": 1000, "million": 1_000_000}
PLANS: dict[str, tuple[str, ...]] = {
    "auto": ("auto", "auto", "auto", "auto"),
    "table_wise": ("table_wise", "table_wise", "table_wise", "table_wise"),
    "row_wise": ("row_wise", "row_wise", "row_wise", "row_wise"),
    "mixed": ("row_wise", "table_wise", "table_row_wise", "auto"),
    "grid": ("grid", "grid", "grid", "grid"),
}


def ladder(plan: str) -> Config:
    """Tables of 1 to a million rows; grid is compared with itself on one rank."""
    tables = []
    for name, sharding in zip(LADDER, PLANS[plan], strict=True):
        shards = 2 if sharding == "grid" else 1
        tables.append(table(name, LADDER[name], 8) | {"sharding": sharding, "column_shards": shards})
    return tables_config(tables)


def losses_of(world: World, configs: list[Config], steps: int) -> list[list[float]]:
    """The loss of each global batch under each config."""
    losses = []
    for config in configs:
        sharded = build_sharded_model(config, world, 10_000)
        feed = batches(config, world, steps)
        outcomes = [sharded.pipeline.progress(feed) for _ in range(steps)]
        losses.append([float(world.sum(output.loss_T.clone())) for output in outcomes])
    return losses


@pytest.mark.parametrize(("size", "steps"), [(2, 100), (4, 10), (8, 10)])
def test_losses_are_the_same_on_any_ranks_under_any_plan(size: int, steps: int) -> None:
    """Rounding is all that differs: float32 adds up in another order on other ranks, and training carries it on."""
    configs = [ladder(plan) for plan in PLANS]
    expected = np.array(run_on_ranks(1, losses_of, configs, steps, timeout_s=600)[0])
    found = np.array(run_on_ranks(size, losses_of, configs, steps, timeout_s=600)[0])
    np.testing.assert_allclose(found[:, :5], expected[:, :5], rtol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
