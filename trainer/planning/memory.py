"""What a rank's memory holds, in bytes, and what a checkpoint holds."""

from dataclasses import dataclass, fields

from trainer.planning.placed import PlacedTable, RankLoad, received
from trainer.planning.topology import Cluster
from trainer.planning.workload import ID_BYTES, NUMBER_BYTES, Workload
from trainer.sharding.memory import FLOAT_BYTES, state_bytes, weight_bytes

_BATCHES_IN_FLIGHT = 3
"""Of TrainPipelineSparseDist: one trains, one has its ids exchanged, one is copied."""

_CACHED_SHARE = 0.2
"""Of a table in the host's memory, on the GPU: what fbgemm and the planner take by themselves."""


@dataclass(frozen=True)
class RankMemory:
    """Bytes in which a rank trains."""

    tables: int
    optimizer: int
    """State of the tables' optimizer."""
    head: int
    """Dense weights, their gradients twice (DDP has buckets of its own), and the dense optimizer's state."""
    activations: int
    """Of the head, and as much again for the gradients that pass through it."""
    exchange: int
    """Sums of embeddings, sent and received, and their gradients."""
    batches: int
    copy: int
    """On a CPU: what a save copies. A GPU's is in its host's memory (`host_copy`)."""

    @property
    def used(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Saved:
    """Bytes of tables' weights and optimizer state that each rank holds, wherever, and on its device."""

    weights: list[int]
    state: list[int]
    weights_on_device: list[int]
    state_on_device: list[int]


def held_tables(tables: list[PlacedTable], size: int) -> Saved:
    """By rank."""
    held = Saved([0] * size, [0] * size, [0] * size, [0] * size)
    for table in tables:
        is_on_device = table.kernel == "fused"
        for rank, rows in table.shards:
            weights = weight_bytes(rows, table.shard_dim, table.dtype)
            state = state_bytes(rows, table.shard_dim, table.optimizer)
            held.weights[rank] += weights
            held.state[rank] += state
            held.weights_on_device[rank] += weights if is_on_device else int(weights * _CACHED_SHARE)
            held.state_on_device[rank] += state if is_on_device else 0
    return held


def dense_bytes(work: Workload) -> int:
    """Of dense weights and their optimizer's state."""
    return work.head.parameters * FLOAT_BYTES * (1 + work.dense_state)


def checkpoint_bytes(held: Saved, work: Workload) -> int:
    """Of a checkpoint's tensors."""
    return sum(held.weights) + sum(held.state) + dense_bytes(work)


def rank_memory(
    held: Saved, loads: list[RankLoad], tables: list[PlacedTable], work: Workload, cluster: Cluster
) -> list[RankMemory]:
    """By rank."""
    rows = work.global_batch_size / cluster.size
    kept = work.activation_bytes // (2 if work.precision == "bf16" else 1)
    values = sum(work.ids_per_row.values()) * ID_BYTES + (work.dense_width + work.labels) * NUMBER_BYTES
    incoming = sum(received(work, tables, cluster)) + rows * work.inputs * FLOAT_BYTES
    is_cpu = cluster.device.type == "cpu"

    return [
        RankMemory(
            tables=weights,
            optimizer=state,
            head=dense_bytes(work) + 2 * work.head.parameters * FLOAT_BYTES,
            activations=int(2 * rows * kept),
            exchange=int(2 * (load.pooled_bytes + incoming)),
            batches=int(_BATCHES_IN_FLIGHT * (rows * values + load.ids * ID_BYTES)),
            copy=weights + state if is_cpu else 0,
        )
        for weights, state, load in zip(held.weights_on_device, held.state_on_device, loads, strict=True)
    ]
