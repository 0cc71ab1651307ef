"""Where each table lives, decided before training and shown to the user.

Only plans are allowed under which every table is trained by the configured fused optimizer: a table that the planner
makes data parallel would be trained by the dense optimizer instead, and different tables at different world sizes.
"""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    KernelConfig,
    ParameterConstraints,
    PlannerError,
    ShardingOption,
    Storage,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ModuleSharder, ShardingPlan

from models.ranker import Ranker
from models.tables import TableConfig, table_key
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.sharding.memory import Budget, describe_lack, state_bytes, table_budget, weight_bytes
from trainer.sharding.settings import FALLBACK


class FusedSharder(EmbeddingBagCollectionSharder):
    """Offers the planner the allowed sharding types on every device, each with the fused kernel only."""

    def __init__(self, allow: tuple[str, ...], fused_params: dict[str, Any]) -> None:
        super().__init__(fused_params=fused_params)
        self.allow = allow
        self.optimizer: EmbOptimType = fused_params["optimizer"]

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """The config's choice and what it falls back on; torchrec's list for CPUs lacks row-wise, which works there."""
        return list(dict.fromkeys((*self.allow, FALLBACK)))

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """Fused: the optimizer runs in the backward pass."""
        return [EmbeddingComputeKernel.FUSED.value]


class Enumerator(EmbeddingEnumerator):
    """The ways to place each table that the planner may choose from, with all the memory that they take.

    Splits that leave a rank with an empty shard are not among them. A split by rows gives every rank ceil(rows / ranks)
    rows, so that none may be left for the last ones (3, 5, 6 or 9 rows on 4 ranks). fbgemm's backward pass on CPUs
    tells tables apart by where their rows begin: it takes one without rows and the next for the same table, and
    updates wrong rows in silence; a rank without any row looks for a GPU (see `docs/architecture.md`).
    """

    def __init__(self, topology: Topology, batch_size: int, names: list[str], *, saves: bool) -> None:
        fused = ParameterConstraints(compute_kernels=[EmbeddingComputeKernel.FUSED.value])
        super().__init__(topology, batch_size, dict.fromkeys(names, fused))
        self._on_gpu = topology.compute_device == "cuda"
        self._saves = saves

    def enumerate(self, module: nn.Module, sharders: list[ModuleSharder[nn.Module]]) -> list[ShardingOption]:
        """The options in torchrec's order, which decides between equals."""
        (sharder,) = sharders
        assert isinstance(sharder, FusedSharder)
        options = [option for option in super().enumerate(module, sharders) if _fills_all_shards(option)]

        # A table for which no allowed way is left is not split: it lies on one rank, whatever sharding.allow says.
        allowed = [option for option in options if option.sharding_type in sharder.allow]
        tables_allowed = {option.name for option in allowed}
        chosen = [option for option in options if option in allowed or option.name not in tables_allowed]

        for option in chosen:
            for shard in option.shards:
                assert shard.storage is not None
                rows, dim = shard.size
                shard.storage += self._storage_beside_weights(rows, dim, sharder.optimizer)

        return chosen

    def _storage_beside_weights(self, rows: int, dim: int, optimizer: EmbOptimType) -> Storage:
        """Of a shard: the optimizer's state, and the copy in the host's memory that a save makes of both."""
        state = state_bytes(rows, dim, optimizer)
        copy = weight_bytes(rows, dim) + state if self._saves else 0
        return Storage(hbm=state, ddr=copy) if self._on_gpu else Storage(hbm=0, ddr=state + copy)


def _fills_all_shards(option: ShardingOption) -> bool:
    return all(shard.size[0] > 0 for shard in option.shards)


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


def plan_tables(
    model: Ranker, sharder: FusedSharder, world: World, batch_size: int, *, saves: bool = True
) -> ShardingPlan:
    """The plan, the same on all ranks; raises ConfigError if the tables do not fit. Collective: call on all ranks.

    `saves`: whether checkpoints will be written, for which tables are copied.
    """
    budget = table_budget(world)
    cluster = TrainerConfig(
        world_size=world.size,
        local_world_size=world.local_size,
        hbm_cap_bytes=budget.gpu,
        ddr_cap_bytes=budget.host,
    )
    kernels = KernelConfig(compute_device=world.device.type)
    topology = TopologyFactory.create_topology(cluster, kernel_config=kernels)

    tables = model.features.tables
    keys = [table_key(table.name) for table in tables]
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        enumerator=Enumerator(topology, batch_size, keys, saves=saves),
        storage_reservation=FixedPercentageStorageReservation(0.0),  # the budget leaves room already
        stats=[],
        debug=False,
    )

    def plan() -> ShardingPlan:
        try:
            return planner.plan(model, [sharder])
        except PlannerError as error:
            raise ConfigError(_explain_lack(tables, sharder, world, budget, saves=saves)) from error

    return world.on_rank_zero(plan)


def _explain_lack(
    tables: tuple[TableConfig, ...], sharder: FusedSharder, world: World, budget: Budget, *, saves: bool
) -> str:
    """What does not fit, and the ways out."""
    ways = ["fewer rows or a smaller dim", "more nodes"]
    if not {"row_wise", "table_row_wise"} & set(sharder.allow):
        ways.append('"row_wise" in sharding.allow')

    if sharder.optimizer in (EmbOptimType.EXACT_ADAGRAD, EmbOptimType.ADAM):
        ways.append('optimizer.sparse.name = "rowwise_adagrad", which keeps one number a row')

    lack = describe_lack(tables, sharder.optimizer, budget, copied=saves)
    return f"tables: they do not fit on {world.size} ranks: {lack}; use {', or '.join(ways)}"


def placements(plan: ShardingPlan, tables: tuple[TableConfig, ...], allow: tuple[str, ...]) -> list[Placement]:
    """The plan as rows of a table; asserts that every one of them is trained as the config says, on every rank."""
    (module_plan,) = plan.plan.values()
    placed = []

    for table in tables:
        entry = module_plan[table_key(table.name)]  # type: ignore[index]
        kernel = entry.compute_kernel
        sharding = entry.sharding_type
        assert kernel == EmbeddingComputeKernel.FUSED.value, f"{table.name}: kernel {kernel}"
        assert sharding in (*allow, FALLBACK), f"{table.name}: sharding {sharding}"
        rows = [shard.shard_sizes[0] for shard in entry.sharding_spec.shards]
        assert min(rows) > 0, f"{table.name}: {sharding} leaves a shard empty, rows {rows}"
        assert sum(rows) == table.rows, f"{table.name}: {sum(rows)} of {table.rows} rows are placed"
        placed.append(
            Placement(
                table=table.name,
                rows=table.rows,
                dim=table.dim,
                sharding=sharding,
                ranks=tuple(entry.ranks or ()),
                bytes=weight_bytes(table.rows, table.dim),
                note="" if sharding in allow else "too few rows to split",
            )
        )

    return placed


def process_group() -> dist.ProcessGroup:
    """The group that the tables are spread over."""
    group = dist.group.WORLD
    assert group is not None
    return group
