"""Tables that do not fit are refused before anything is allocated, by what the machine, container or job has."""

import re
from pathlib import Path
from typing import Any

import pytest

import trainer.sharding.memory
from tests.ranks import run_on_ranks
from tests.trainer.sharding.test_plan import table, tables_config
from trainer.build_model import build_sharded_model
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.sharding.memory import host_memory, state_bytes
from trainer.sharding.settings import SparseOptimizerName

MEBIBYTE = 1 << 20
UNLIMITED = "9223372036854771712"  # as version 1 writes it


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/job\n", {"job/memory.max": "3145728"}, 3),
        ("0::/job/step\n", {"job/step/memory.max": "max", "job/memory.max": "2097152"}, 2),
        ("0::/\n", {"memory.max": "1048576"}, 1),
        ("0::/elsewhere\n", {"memory.max": "1048576"}, 1),
        ("5:cpu:/a\n4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "4194304"}, 4),
        ("4:cpu,memory:/of/host\n", {"memory/memory.limit_in_bytes": "5242880"}, 5),
        (
            "4:memory:/a/b\n",
            {"memory/a/b/memory.limit_in_bytes": UNLIMITED, "memory/a/memory.limit_in_bytes": "6291456"},
            6,
        ),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": UNLIMITED}, None),
        ("0::/job\n", {}, None),
        (None, {}, None),
    ],
)
def test_the_least_limit_of_the_groups_above_counts(
    tmp_path: Path, groups: str | None, files: dict[str, str], expected: int | None
) -> None:
    """Both versions of control groups; in a container the group itself may be the root of the mount."""
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    machine = host_memory(tmp_path / "nothing")
    assert host_memory(tmp_path) == (machine if expected is None else expected * MEBIBYTE)


def test_here_there_is_memory() -> None:
    assert 64 * MEBIBYTE < host_memory() < 1 << 50


def _refused(world: World, config: Config, host_bytes: int, saves: bool) -> str | None:
    trainer.sharding.memory.host_memory = lambda: host_bytes
    try:
        build_sharded_model(config, world, 1000, saves=saves)
    except ConfigError as error:
        return str(error)
    return None


TABLES = [table("big", 1 << 18, 4), table("small", 1 << 10, 4)]  # 4 MiB and 1 MiB of state; 16 KiB


@pytest.mark.parametrize(
    ("size", "sections", "mebibytes", "saves", "fits"),
    [
        (1, {}, 15, True, True),
        (1, {}, 11, True, False),
        (1, {}, 7, False, True),
        (1, {}, 5, False, False),
        (1, {"optimizer": {"sparse": {"name": "sgd"}}}, 11, True, True),
        (1, {"optimizer": {"sparse": {"name": "adagrad"}}}, 15, True, False),
        (1, {"tables": [entry | {"dtype": "float16"} for entry in TABLES]}, 8, True, True),
        (1, {"tables": [entry | {"dtype": "float16"} for entry in TABLES]}, 5, True, False),
        (1, {"sharding": {"memory": "10MiB"}}, 64, True, False),
        (1, {"sharding": {"memory": "11MiB"}}, 64, True, True),
        (2, {"sharding": {"memory": "6MiB", "allow": ["row_wise"]}}, 64, True, True),
        (2, {"sharding": {"memory": "5MiB", "allow": ["table_row_wise"]}}, 64, True, False),
        (2, {"sharding": {"allow": ["row_wise"]}}, 15, True, True),
        (2, {"sharding": {"allow": ["table_wise"]}}, 15, True, False),
    ],
)
def test_tables_fit_with_state_and_the_copy_of_a_save_or_are_refused(
    size: int, sections: dict[str, Any], mebibytes: int, saves: bool, fits: bool
) -> None:
    config = tables_config(**{"tables": TABLES, **sections})
    told = run_on_ranks(size, _refused, config, mebibytes * MEBIBYTE, saves)
    if fits:
        assert told == [None] * size
        return
    assert told == [told[0]] * size
    assert re.match(rf"tables: they do not fit on {size} ranks: 'big' [358]\.00 MiB, 'small' [\d.]+ KiB need", told[0])
    assert ("the copy that a save makes" in told[0]) == saves
    asked = sections.get("sharding", {})
    assert ('"row_wise" in sharding.allow' in told[0]) == (asked.get("allow") == ["table_wise"])
    assert ("; use a larger sharding.memory, or " in told[0]) == ("memory" in asked)
    assert ("too little in all" in told[0]) == (asked.get("allow") != ["table_wise"])
    assert ('"rowwise_adagrad"' in told[0]) == ("optimizer" in sections)
    assert ('tables.dtype = "float16"' in told[0]) == ("tables" not in sections)
    assert "\n" not in told[0]


def _state_sizes(world: World, configs: list[Config]) -> list[int]:
    sizes = []
    for config in configs:
        state = build_sharded_model(config, world, 1000).model.fused_optimizer.state_dict()["state"]
        tensors = [tensor for parameter in state.values() for tensor in parameter.values()]
        sizes.append(sum(shard.tensor.nbytes for tensor in tensors for shard in tensor.local_shards()))
    return sizes


def test_the_state_is_as_large_as_computed() -> None:
    names: tuple[SparseOptimizerName, ...] = ("rowwise_adagrad", "adagrad", "sgd")
    configs = [tables_config([table("a", 100, 8)], optimizer={"sparse": {"name": name}}) for name in names]
    found = run_on_ranks(1, _state_sizes, configs)[0]
    assert found == [state_bytes(100, 8, name) for name in names]
    assert state_bytes(100, 8, "adam") == 2 * 100 * 8 * 4


def test_table_that_names_a_placement_for_which_there_is_no_memory() -> None:
    config = tables_config([TABLES[0] | {"sharding": "table_wise"}, TABLES[1]])
    told = run_on_ranks(2, _refused, config, 15 * MEBIBYTE, True)
    assert told == [told[0]] * 2
    assert (
        """; use fewer rows or a smaller dim, or more nodes, or sharding = "auto" for 'big' (table_wise)""" in told[0]
    )
    by_rows = tables_config([TABLES[0] | {"sharding": "row_wise"}, TABLES[1]])
    assert run_on_ranks(2, _refused, by_rows, 15 * MEBIBYTE, True) == [None, None]
