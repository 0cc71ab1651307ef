"""Where each table lives, decided before training and shown to the user.

Only plans are allowed under which every table is trained by the configured fused optimizer: a table that the planner
makes data parallel would be trained by the dense optimizer instead, and different tables at different world sizes.
"""

from dataclasses import dataclass
from typing import cast

import torch.distributed as dist
from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import KernelConfig, PlannerError, TopologyFactory, TrainerConfig
from torchrec.distributed.types import ModuleSharder, ShardingPlan, ShardMetadata

from data.discovery.listing import shown_names
from models.ranker import Ranker
from models.tables import TableType, table_key
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.sharding.memory import Budget, describe_lack, table_budget, weight_bytes
from trainer.sharding.options import Enumerator, FusedSharder
from trainer.sharding.settings import FALLBACK, Kernel, ShardedTableConfig


@dataclass(frozen=True)
class Placement:
    """One table in the plan."""

    table: str
    rows: int
    dim: int
    sharding: str
    ranks: tuple[int, ...]
    bytes: int
    """Weights of the whole table."""
    note: str = ""
    """Why it lies as `sharding.allow` does not say."""
    dtype: TableType = "float32"
    kernel: Kernel = "fused"


@dataclass(frozen=True)
class Ranks:
    """The ranks that tables are spread over: those of a training, or imagined ones."""

    size: int
    local_size: int
    """Of one node."""
    device_type: str
    """cpu or cuda."""


def plan_tables(
    model: Ranker, sharder: FusedSharder, world: World, ranks: Ranks, batch_size: int, *, saves: bool = True
) -> ShardingPlan:
    """The plan, the same on all ranks; raises ConfigError if the tables do not fit. Collective: call on all ranks.

    `ranks`: over which a copy of the tables is spread.
    `saves`: whether checkpoints will be written, for which tables are copied.
    """
    budget = table_budget(world).within(sharder.memory)

    def plan() -> ShardingPlan:
        try:
            return spread_tables(model, sharder, ranks, budget, batch_size, saves=saves)
        except PlannerError as error:
            raise ConfigError(_explain_lack(sharder, ranks.size, budget, saves=saves)) from error

    return world.on_rank_zero(plan)


def spread_tables(
    model: nn.Module, sharder: FusedSharder, ranks: Ranks, budget: Budget, batch_size: int, *, saves: bool
) -> ShardingPlan:
    """The plan of the tables in `model`; raises PlannerError if they do not fit. No rank needs to be there."""
    cluster = TrainerConfig(
        world_size=ranks.size,
        local_world_size=ranks.local_size,
        hbm_cap_bytes=budget.gpu,
        ddr_cap_bytes=budget.host,
    )
    kernels = KernelConfig(compute_device=ranks.device_type)
    topology = TopologyFactory.create_topology(cluster, kernel_config=kernels)
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        enumerator=Enumerator(topology, batch_size, sharder.tables, saves=saves),
        storage_reservation=FixedPercentageStorageReservation(0.0),  # the budget leaves room already
        stats=[],
        debug=False,
    )
    return planner.plan(model, [cast(ModuleSharder[nn.Module], sharder)])


def _explain_lack(sharder: FusedSharder, size: int, budget: Budget, *, saves: bool) -> str:
    """What does not fit, and the ways out."""
    ways = ["fewer rows or a smaller dim", "more nodes"]
    named = [f"{table.name!r} ({table.sharding})" for table in sharder.tables if table.sharding != "auto"]
    if named:
        ways.append(f'sharding = "auto" for {shown_names(named, len(named))}')
    if not {"row_wise", "table_row_wise"} & set(sharder.allow):
        ways.append('"row_wise" in sharding.allow')

    if any(sharder.optimizer.of(table).name in ("adagrad", "adam") for table in sharder.tables):
        ways.append('the optimizer "rowwise_adagrad", which keeps one number a row')

    if any(table.dtype == "float32" for table in sharder.tables):
        ways.append('tables.dtype = "float16"')

    if sharder.memory is not None and sharder.memory in (budget.gpu, budget.host):
        ways.insert(0, "a larger sharding.memory")

    lack = describe_lack(sharder.tables, sharder.optimizer, budget, size, copied=saves)
    return f"tables: they do not fit on {size} ranks: {lack}; use {', or '.join(ways)}"


def placements(plan: ShardingPlan, sharder: FusedSharder, rows_held: dict[str, int]) -> list[Placement]:
    """The plan as rows of a table; asserts that every one of them is trained as the config says, on every rank."""
    (module_plan,) = plan.plan.values()
    placed = []

    for table in sharder.tables:
        key = table_key(table.name)
        entry = module_plan[key]  # type: ignore[index]
        kernel = entry.compute_kernel
        sharding = entry.sharding_type
        assert kernel == table.kernel, f"{table.name}: kernel {kernel}"
        is_asked = sharder.may_place(key, sharding)
        assert is_asked or (table.sharding == "auto" and sharding == FALLBACK), f"{table.name}: sharding {sharding}"
        _check_shards(table, entry.sharding_spec.shards, rows_held[table.name])
        placed.append(
            Placement(
                table=table.name,
                rows=table.rows,
                dim=table.dim,
                sharding=sharding if table.sharding == "auto" else table.sharding,
                ranks=tuple(entry.ranks or ()),
                bytes=weight_bytes(table.rows, table.dim, table.dtype),
                dtype=table.dtype,
                kernel=table.kernel,
                note="" if is_asked else "too few rows to split",
            )
        )

    return placed


def _check_shards(table: ShardedTableConfig, shards: list[ShardMetadata], rows_held: int) -> None:
    """Asserts that the shards are the whole table, none of them empty, with as many parts of its columns as asked."""
    rows = [shard.shard_sizes[0] for shard in shards]
    assert min(rows) > 0, f"{table.name}: a shard is empty, rows {rows}"
    parts = {shard.shard_offsets[1] for shard in shards}
    assert len(parts) == table.column_shards, f"{table.name}: column shards begin at {parts}"
    assert sum(rows) == rows_held * len(parts), f"{table.name}: {sum(rows)} of {rows_held} rows are placed"


def process_group() -> dist.ProcessGroup:
    """The group that the tables are spread over."""
    group = dist.group.WORLD
    assert group is not None
    return group
