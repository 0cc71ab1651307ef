"""How much memory there is for tables, and how much they need."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from models.tables import TORCH_TYPES, TableType
from trainer.distributed.world import World
from trainer.sharding.settings import ShardedTableConfig, SparseOptimizerConfig, SparseOptimizerName

RESERVED_MEMORY = 0.15
"""Share of the memory that tables may not take: the dense part, activations, batches in flight."""
FLOAT_BYTES = 4
_STATE_PER_WEIGHT = {"sgd": 0, "adagrad": 1, "adam": 2}


@dataclass(frozen=True)
class Budget:
    """Bytes that the tables of one rank may take."""

    gpu: int
    """Of its GPU; 0 on a CPU."""
    host: int
    """Of its share of the host's memory."""

    def within(self, most: int | None) -> "Budget":
        """Of the memory that tables are trained in no more than `most`."""
        if most is None:
            return self
        return replace(self, gpu=min(self.gpu, most)) if self.gpu else replace(self, host=min(self.host, most))


def table_budget(world: World) -> Budget:
    """What the rank that has least has. Collective: call on all ranks."""
    share = 1 - RESERVED_MEMORY
    here = (world.gpu_bytes or 0, host_memory() // world.local_size)
    gpus, hosts = zip(*world.gather(here), strict=True)
    return Budget(gpu=int(share * min(gpus)), host=int(share * min(hosts)))


def weight_bytes(rows: int, dim: int, dtype: TableType) -> int:
    """Of a table, or of a shard of it."""
    return rows * dim * TORCH_TYPES[dtype].itemsize


def state_bytes(rows: int, dim: int, optimizer: SparseOptimizerName) -> int:
    """What the fused optimizer keeps beside the weights, in float32."""
    if optimizer == "rowwise_adagrad":
        return rows * FLOAT_BYTES
    return rows * dim * FLOAT_BYTES * _STATE_PER_WEIGHT[optimizer]


def host_memory(root: Path = Path("/")) -> int:
    """Bytes of the machine, or of what its control groups leave: those of a container, or of a scheduler's job."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """The limits of this process's group and of every group above it, in version 1 or 2 of control groups."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return

    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _limits_above(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_above(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")


def _limits_above(mount: Path, path: str, file: str) -> Iterator[int]:
    """In a container the mount may show the group itself at its root, and nothing under `path`."""
    group = mount / path.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(mount):
            return
        try:
            text = (folder / file).read_text().strip()
        except OSError:
            continue

        if text.isdigit():  # "max" is no limit
            yield int(text)


def describe_lack(
    tables: tuple[ShardedTableConfig, ...], optimizer: SparseOptimizerConfig, budget: Budget, size: int, copied: bool
) -> str:
    """Which tables need how much, and what each of `size` ranks has; `copied`: a save copies them, on the host."""
    needs = {table.name: weight_bytes(table.rows, table.dim, table.dtype) for table in tables}
    for table in tables:
        needs[table.name] += state_bytes(table.rows, table.dim, optimizer.of(table).name)

    largest = sorted(needs, key=lambda name: -needs[name])[:3]
    listed = ", ".join(f"{name!r} {_size(needs[name])}" for name in largest)
    num_others = len(needs) - len(largest)
    others = f" and {num_others} more" if num_others else ""
    again = ", and as much again in the host's memory for the copy that a save makes" if copied else ""
    whole = sum(needs.values())
    needed = f"{_size(whole)} with the optimizer's state{again}"

    gpu = f"{_size(budget.gpu)} of its GPU and " if budget.gpu else ""
    available = f"{gpu}{_size(budget.host)} of the host's memory for tables"
    on_host = whole * ((not budget.gpu) + copied)
    over = max(whole - size * budget.gpu if budget.gpu else 0, on_host - size * budget.host)
    short = f"{_size(over)} too little in all" if over > 0 else "enough in all, but not for these pieces"
    return f"{listed}{others} need {needed}; each rank has {available}, {short}"


def _size(number: int) -> str:
    """In the largest unit that shows it."""
    units = {"GiB": 30, "MiB": 20, "KiB": 10}
    unit = next((unit for unit, bits in units.items() if number >= 2**bits), "KiB")
    return f"{number / 2 ** units[unit]:,.2f} {unit}"
