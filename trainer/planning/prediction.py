"""How long a step takes: a model of its parts, each a pure function of bytes, FLOPs and what a device reaches.

    reading      values of a rank's rows ÷ threads                       beside the step on a GPU
    lookup       bytes of embeddings read and of sums written            the busiest rank
    exchange     ids; sums to the ranks of their rows, gradients back    the busiest rank; ids beside the step on a GPU
    head         FLOPs of its own count, and its activations' bytes      forward and backward
    all-reduce   gradients of the dense part, in a ring                  beside the head's backward pass on a GPU
    update       gradients read, rows read and written                   the busiest rank
    optimizer    bytes of dense weights, gradients and state
    overhead     launches and Python
    averaging    weights and state of the fullest rank, in a ring over the copies of the tables

All ranks wait for the slowest in every exchange, so that the busiest rank counts. It is a model and no measurement: of
rows that meet the same ids, caches, stragglers and congestion it knows nothing.
"""

from dataclasses import dataclass, fields

from trainer.planning.copies import Copies
from trainer.planning.devices import Device
from trainer.planning.memory import held_tables
from trainer.planning.placed import PlacedTable, RankLoad, id_bytes, rank_loads, received
from trainer.planning.topology import Cluster
from trainer.planning.workload import ID_BYTES, Workload
from trainer.sharding.memory import FLOAT_BYTES

_ACTIVATION_PASSES = 4
"""An activation is written, read in backward, and its gradient written and read."""
_BACKWARD_SHARE = 2 / 3
"""Of the head's time; each product has two more in its backward pass."""


@dataclass(frozen=True)
class StepParts:
    """Seconds of a step's parts, each alone."""

    reading: float
    lookup: float
    exchange: float
    head: float
    all_reduce: float
    update: float
    optimizer: float
    overhead: float
    averaging: float = 0.0
    """Of the copies of the tables, spread over the steps between two of them."""

    def as_dict(self) -> dict[str, float]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        parts = self.as_dict()
        return max(parts, key=lambda name: parts[name])


def predict_step(
    tables: list[PlacedTable], work: Workload, cluster: Cluster, copies: Copies | None = None
) -> tuple[StepParts, float]:
    """The parts of a step, and seconds of the whole; `tables` are placed on the ranks of one copy."""
    copies = copies or Copies(1, cluster, work, 1.0)
    loads = rank_loads(tables, copies.work, copies.cluster)
    device = cluster.device
    rows = work.global_batch_size / cluster.size
    parts = StepParts(
        reading=reading_seconds(work, rows, device),
        lookup=max(lookup_seconds(load, device) for load in loads),
        exchange=exchange_seconds(loads, tables, copies.work, copies.cluster),
        head=head_seconds(work, rows, device),
        all_reduce=all_reduce_seconds(work.head.parameters * FLOAT_BYTES, cluster),
        update=max(update_seconds(load, device) for load in loads),
        optimizer=optimizer_seconds(work, device),
        overhead=device.step_seconds,
        averaging=averaging_seconds(tables, cluster, copies),
    )
    return parts, step_seconds(parts, device)


def step_seconds(parts: StepParts, device: Device) -> float:
    """The whole step: on a CPU the sum of the parts; a GPU hides reading, and gradients' way behind backward."""
    if not device.overlaps:
        return sum(parts.as_dict().values())

    exposed = max(0.0, parts.all_reduce - parts.head * _BACKWARD_SHARE)
    on_device = parts.lookup + parts.exchange + parts.head + exposed + parts.update + parts.optimizer + parts.overhead
    return max(parts.reading, on_device + parts.averaging)


def reading_seconds(work: Workload, rows: float, device: Device) -> float:
    """Of a rank's `rows`; a CPU's other threads are taken by the step."""
    threads = work.reading_threads if device.overlaps else 1
    return rows * work.values_per_row * device.reading_seconds / threads


def lookup_seconds(load: RankLoad, device: Device) -> float:
    """Ids to sums."""
    if device.lookup_seconds is not None:
        return load.ids * device.lookup_seconds
    moved = load.row_bytes + load.pooled_bytes + load.ids * ID_BYTES
    return moved / (device.memory_rate * device.efficiency.lookup)


def update_seconds(load: RankLoad, device: Device) -> float:
    """Gradients of sums to rows of tables: every id reads a gradient, and reads and writes a row."""
    if device.update_seconds is not None:
        return load.ids * device.update_seconds
    moved = load.gradient_bytes + 2 * load.row_bytes + load.ids * ID_BYTES
    return moved / (device.memory_rate * device.efficiency.update)


def exchange_seconds(loads: list[RankLoad], tables: list[PlacedTable], work: Workload, cluster: Cluster) -> float:
    """Sums to the ranks of their rows, and the gradients the same way back; on a CPU the ids' way, too."""
    if cluster.size == 1:
        return 0.0

    link, network = received(work, tables, cluster)
    slowest = max(
        transfer_seconds(max(load.link_bytes, link), max(load.network_bytes, network), cluster) for load in loads
    )
    ids = 0.0 if cluster.device.overlaps else transfer_seconds(*id_bytes(work, cluster), cluster)
    return 2 * slowest + ids


def transfer_seconds(link_bytes: float, network_bytes: float, cluster: Cluster) -> float:
    """Of bytes in a node and bytes between nodes, one after the other."""
    device = cluster.device
    efficiency = device.efficiency.links
    return link_bytes / (device.link_rate * efficiency) + network_bytes / (device.network_rate * efficiency)


def head_seconds(work: Workload, rows: float, device: Device) -> float:
    """Forward and backward; on a CPU the rate is measured on the head itself, bytes of activations included."""
    flops = rows * work.head.training_flops
    products = flops / (device.flops[work.precision] * device.efficiency.products)
    if not device.overlaps:
        return products
    moved = rows * work.activation_bytes * _ACTIVATION_PASSES
    return products + moved / (device.memory_rate * device.efficiency.streaming)


def all_reduce_seconds(gradient_bytes: float, cluster: Cluster) -> float:
    """In a ring every rank sends, and gets, nearly twice the bytes; between nodes each of its links has a share."""
    if cluster.size == 1:
        return 0.0
    moved = 2 * gradient_bytes * (cluster.size - 1) / cluster.size
    between = moved / cluster.local_size if cluster.nodes > 1 else 0.0
    return transfer_seconds(moved, between, cluster)


def averaging_seconds(tables: list[PlacedTable], cluster: Cluster, copies: Copies) -> float:
    """Of weights and optimizer state of the fullest rank, in a ring over the copies, which are on one node."""
    if copies.number == 1:
        return 0.0
    held = held_tables(tables, copies.cluster.size)
    fullest = max(weights + state for weights, state in zip(held.weights, held.state, strict=True))
    moved = 2 * fullest * (copies.number - 1) / copies.number
    return transfer_seconds(moved, 0.0, cluster) / copies.steps


def optimizer_seconds(work: Workload, device: Device) -> float:
    """Of the dense part: weights and state are read and written, gradients read, averaged and cleared."""
    moved = work.head.parameters * FLOAT_BYTES * (2 * (1 + work.dense_state) + 4)
    return moved / (device.memory_rate * device.efficiency.streaming)
