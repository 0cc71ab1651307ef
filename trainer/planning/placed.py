"""Where the tables of a plan lie, as rows on ranks, and what each rank has to do for them."""

from dataclasses import dataclass

from torchrec.distributed.types import ShardingPlan

from models.tables import TORCH_TYPES, TableType, table_key
from trainer.planning.topology import Cluster
from trainer.planning.workload import ID_BYTES, Workload
from trainer.sharding.memory import FLOAT_BYTES
from trainer.sharding.options import FusedSharder
from trainer.sharding.settings import Kernel, SparseOptimizerName


@dataclass(frozen=True)
class PlacedTable:
    """A table, and how many of its rows each rank holds."""

    name: str
    rows: int
    dim: int
    sharding: str
    shards: tuple[tuple[int, int], ...]
    """(rank, rows)"""
    optimizer: SparseOptimizerName = "rowwise_adagrad"
    dtype: TableType = "float32"
    column_shards: int = 1
    kernel: Kernel = "fused"

    @property
    def shard_dim(self) -> int:
        """Width of each shard."""
        return self.dim // self.column_shards


@dataclass(frozen=True)
class RankLoad:
    """A rank's share of a step, on average over batches; ids are taken to meet all rows of a table alike."""

    ids: float = 0.0
    """Looked up."""
    row_bytes: float = 0.0
    """Of the embeddings that are looked up."""
    gradient_bytes: float = 0.0
    """Of their gradients, which are float32 whatever the table is."""
    pooled_bytes: float = 0.0
    """Of the sums that it makes, for rows of all ranks."""
    link_bytes: float = 0.0
    """Of them, to other ranks of its node."""
    network_bytes: float = 0.0
    """Of them, to other nodes."""


def placed_tables(plan: ShardingPlan, sharder: FusedSharder) -> list[PlacedTable]:
    """The tables as a plan spreads them."""
    (module_plan,) = plan.plan.values()
    placed = []
    for table in sharder.tables:
        entry = module_plan[table_key(table.name)]  # type: ignore[index]
        shards = tuple((shard.placement.rank(), shard.shard_sizes[0]) for shard in entry.sharding_spec.shards)
        placed.append(
            PlacedTable(
                name=table.name,
                rows=table.rows,
                dim=table.dim,
                sharding=entry.sharding_type,
                shards=shards,
                optimizer=sharder.optimizer.of(table).name,
                dtype=table.dtype,
                column_shards=table.column_shards,
                kernel=table.kernel,
            )
        )
    return placed


def rank_loads(tables: list[PlacedTable], work: Workload, cluster: Cluster) -> list[RankLoad]:
    """What each rank looks up and sends in a step."""
    loads = [RankLoad() for _ in range(cluster.size)]
    for table in tables:
        for rank, rows in table.shards:
            loads[rank] = _with_shard(loads[rank], table, rows, work, cluster)
    return loads


def _with_shard(load: RankLoad, table: PlacedTable, rows: int, work: Workload, cluster: Cluster) -> RankLoad:
    ids = work.global_batch_size * work.ids_per_row[table.name] * rows / table.rows
    pooled = float(work.global_batch_size * work.features_of[table.name] * table.shard_dim * FLOAT_BYTES)
    link, network = sent(table.sharding, pooled, cluster)
    return RankLoad(
        load.ids + ids,
        load.row_bytes + ids * table.shard_dim * TORCH_TYPES[table.dtype].itemsize,
        load.gradient_bytes + ids * table.shard_dim * FLOAT_BYTES,
        load.pooled_bytes + pooled,
        load.link_bytes + link,
        load.network_bytes + network,
    )


def sent(sharding: str, pooled_bytes: float, cluster: Cluster) -> tuple[float, float]:
    """Bytes that a shard's rank sends in its node, and to others, of the sums for the rows of all ranks.

    table_wise, and by columns: an all-to-all; each rank gets the sums of its own rows.
    row_wise: a reduce-scatter; in a ring each rank passes on nearly all, and one rank of a node to the next node.
    table_row_wise, grid: a reduce-scatter in the node, then an all-to-all between the ranks of the same number.
    """
    size, local = cluster.size, cluster.local_size
    if sharding in ("table_wise", "column_wise", "table_column_wise"):
        return pooled_bytes * (local - 1) / size, pooled_bytes * (size - local) / size
    if sharding == "row_wise":
        between = pooled_bytes / local if size > local else 0.0
        return pooled_bytes * (size - 1) / size, between
    return pooled_bytes * (local - 1) / local, pooled_bytes / local * (size - local) / size


def id_bytes(work: Workload, cluster: Cluster) -> tuple[float, float]:
    """Bytes of ids that a rank sends in its node, and to others."""
    rows = work.global_batch_size / cluster.size
    all_ids = rows * sum(work.ids_per_row.values()) * ID_BYTES
    size, local = cluster.size, cluster.local_size
    return all_ids * (local - 1) / size, all_ids * (size - local) / size


def received(work: Workload, tables: list[PlacedTable], cluster: Cluster) -> tuple[float, float]:
    """Bytes of sums that a rank gets for its own rows, from its node and from others, if each comes once."""
    rows = work.global_batch_size / cluster.size
    size, local = cluster.size, cluster.local_size
    all_bytes = rows * FLOAT_BYTES * sum(table.dim * work.features_of[table.name] for table in tables)
    return all_bytes * (local - 1) / size, all_bytes * (size - local) / size
