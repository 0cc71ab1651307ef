"""Where each table lives, decided before training and shown to the user.

Only plans are allowed under which every table is trained by the configured fused optimizer: a table that the planner
makes data parallel would be trained by the dense optimizer instead, and different tables at different world sizes.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch.distributed as dist
from pydantic import Field, field_validator
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    KernelConfig,
    ParameterConstraints,
    PlannerError,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ShardingPlan

from data.settings import Settings
from models.embedding import TableConfig
from trainer.errors import ConfigError
from trainer.world import World

RESERVED_MEMORY = 0.15
"""Share of each device's memory that tables may not take: the dense part, activations, batches in flight."""
ShardingType = Literal["table_wise", "row_wise", "table_row_wise"]


class ShardingConfig(Settings):
    """How tables may be spread over ranks."""

    allow: tuple[ShardingType, ...] = Field(default=("table_wise", "row_wise", "table_row_wise"), min_length=1)
    """table_wise: one rank has the table. row_wise: its rows lie on all. table_row_wise: on the ranks of a node."""

    @field_validator("allow", mode="before")
    @classmethod
    def _explain_refusal(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and {"column_wise", "table_column_wise", "data_parallel"} & set(value):
            raise ValueError(
                f"{list(value)} holds another algorithm: by columns every shard keeps an optimizer state of its own, "
                "data_parallel leaves the fused optimizer, and neither can go on from a checkpoint of the others. Use "
                f"{', '.join(get_args(ShardingType))}"
            )
        return tuple(value) if isinstance(value, list) else value


class FusedSharder(EmbeddingBagCollectionSharder):
    """Offers the planner the allowed sharding types on every device, each with the fused kernel only."""

    def __init__(self, allow: tuple[str, ...], fused_params: dict[str, Any]) -> None:
        super().__init__(fused_params=fused_params)
        self._allow = list(allow)

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """The config's choice; torchrec's own list for CPUs lacks row-wise, which works there."""
        return self._allow

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """Fused: the optimizer runs in the backward pass."""
        return [EmbeddingComputeKernel.FUSED.value]


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


def plan_tables(model: nn.Module, sharder: FusedSharder, world: World, batch_size: int) -> ShardingPlan:
    """The plan, the same on all ranks. Collective: call on all ranks."""
    topology = TopologyFactory.create_topology(
        TrainerConfig(world_size=world.size, local_world_size=world.local_size, hbm_cap_bytes=world.gpu_bytes),
        kernel_config=KernelConfig(compute_device=world.device.type),
    )
    names = [table.name for table in model.features.embeddings.embedding_bag_configs()]  # type: ignore[union-attr,operator]
    fused = ParameterConstraints(compute_kernels=[EmbeddingComputeKernel.FUSED.value])
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        constraints=dict.fromkeys(names, fused),
        storage_reservation=FixedPercentageStorageReservation(RESERVED_MEMORY),
        stats=[],
        debug=False,
    )

    def plan() -> ShardingPlan:
        try:
            return planner.plan(model, [sharder])
        except PlannerError as error:
            raise ConfigError(
                f"sharding: no plan fits the tables on {world.size} ranks ({str(error).splitlines()[0]})"
            ) from error

    return world.on_first(plan)


def placements(plan: ShardingPlan, tables: tuple[TableConfig, ...], allow: tuple[str, ...]) -> list[Placement]:
    """The plan as rows of a table; asserts that the fused optimizer trains every one of them as the config says."""
    (module_plan,) = plan.plan.values()
    placed = []
    for table in tables:
        entry = module_plan[table.name]  # type: ignore[index]
        assert entry.compute_kernel == EmbeddingComputeKernel.FUSED.value, (
            f"{table.name}: kernel {entry.compute_kernel}"
        )
        assert entry.sharding_type in allow, f"{table.name}: sharding {entry.sharding_type}"
        ranks = tuple(entry.ranks or ())
        placed.append(
            Placement(table.name, table.rows, table.dim, entry.sharding_type, ranks, table.rows * table.dim * 4)
        )
    return placed


def process_group() -> dist.ProcessGroup:
    """The group that the tables are spread over."""
    group = dist.group.WORLD
    assert group is not None
    return group
