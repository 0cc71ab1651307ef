"""A table that names its sharding is placed so, or the config is refused; whatever it names, it trains alike."""

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
    assert_alike,
    batches,
    evaluate_parts,
    table,
    tables_config,
    train_run,
    train_some,
    whole,
)
from trainer.build_model import build_sharded_model
from trainer.config.compatibility import differences
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.run.jsonl import read_records
from trainer.sharding.padding import padded_rows

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
    sections: dict[str, Any] = {"optimizer": {"sparse": {"name": optimizer, "weight_decay": 0.01}}}
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
    config = named(dict.fromkeys(FEW, "row_wise"), FEW, optimizer={"sparse": {"weight_decay": 0.1}})
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
