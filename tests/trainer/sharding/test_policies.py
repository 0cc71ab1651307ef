"""A table that names its sharding is placed so, or the config is refused; whatever it names, it trains alike."""

import os
from typing import Any

import pytest

from tests.ranks import run_on_ranks
from tests.trainer.sharding.test_plan import assert_alike, table, tables_config, train_some
from trainer.build_model import build_sharded_model
from trainer.config.compatibility import differences
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError

MIXED = {"a": "table_wise", "b": "row_wise", "c": "auto", "d": "table_row_wise", "e": "row_wise"}
ROWS = {"a": 1, "b": 1_000_000, "c": 5, "d": 1000, "e": 64}


def named(shardings: dict[str, str], rows: dict[str, int] = ROWS, **sections: Any) -> Config:
    """Tables that name their sharding."""
    tables = [table(name, rows[name], 8) | {"sharding": sharding} for name, sharding in shardings.items()]
    return tables_config(tables, **sections)


def refused(world: World, config: Config, local_size: int) -> str | None:
    """What is wrong with the config, in the words of the error."""
    os.environ["LOCAL_WORLD_SIZE"] = str(local_size)
    nodes = World(world.rank, world.size, world.rank % local_size, local_size, world.device)
    try:
        build_sharded_model(config, nodes, 1000)
    except ConfigError as error:
        return str(error)
    return None


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
    assert differences(before, wider) == [("tables.1.rows", "1000000", "7")]


@pytest.mark.parametrize(
    ("sharding", "rows", "size", "local_size", "told"),
    [
        ("row_wise", 1, 2, 2, "'a' has 1 rows, too few for sharding = 'row_wise': it puts 1 on each of 2 ranks"),
        ("row_wise", 6, 4, 4, "'a' has 6 rows, too few for sharding = 'row_wise': it puts 2 on each of 4 ranks"),
        ("table_row_wise", 1, 4, 2, "'a' has 1 rows, too few for sharding = 'table_row_wise': it puts 1 on each of 2"),
    ],
)
def test_split_that_leaves_a_rank_without_rows_is_refused(
    sharding: str, rows: int, size: int, local_size: int, told: str
) -> None:
    config = named({"a": sharding}, rows={"a": rows})
    results = run_on_ranks(size, refused, config, local_size)
    assert results == [results[0]] * size
    assert results[0].startswith(f"tables: {told}")
    assert "\n" not in results[0]
