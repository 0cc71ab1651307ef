"""Where tables do not fit: by how much, and what would fit. Arithmetic on bytes: a plan may need a little more."""

import math
from dataclasses import dataclass, replace

from trainer.config.run_config import Config
from trainer.planning.topology import Cluster
from trainer.sharding.memory import state_bytes, weight_bytes

_SPLIT = {"row_wise", "table_row_wise"}


@dataclass(frozen=True)
class Need:
    """Bytes of all tables."""

    weights: int
    state: int
    float16_weights: int
    """The weights, if all of them were float16."""
    largest: int
    """Weights and state of the largest table."""
    largest_name: str

    @property
    def whole(self) -> int:
        """Weights and state."""
        return self.weights + self.state


def need_of(config: Config) -> Need:
    """Of a config's tables."""
    optimizer = config.optimizer.sparse
    weights = {table.name: weight_bytes(table.rows, table.dim, table.dtype) for table in config.tables_held}
    state = {table.name: state_bytes(table.rows, table.dim, optimizer.of(table).name) for table in config.tables_held}
    largest = max(weights, key=lambda name: weights[name] + state[name])
    halves = sum(weight_bytes(table.rows, table.dim, "float16") for table in config.tables_held)
    return Need(sum(weights.values()), sum(state.values()), halves, weights[largest] + state[largest], largest)


def room(cluster: Cluster) -> int:
    """Bytes that all ranks have for weights and state: of a CPU, half, since a save makes a copy."""
    budget = cluster.budget
    return cluster.size * (min(budget.gpu, budget.host) if budget.gpu else budget.host // 2)


def lack(config: Config, need: Need, cluster: Cluster) -> str:
    """By how much the tables are too big."""
    has = room(cluster)
    each = has // cluster.size
    size = f"{cluster.size} ranks of {cluster.device.name!r}"
    if need.whole > has:
        return (
            f"the tables take {gib(need.whole)} with their optimizer's state, {gib(need.whole - has)} more than {size} "
            "have for them"
        )
    if need.largest > each and not _SPLIT & set(config.sharding.allow):
        return (
            f"table {need.largest_name!r} takes {gib(need.largest)}, {gib(need.largest - each)} more than a rank of "
            f"{cluster.device.name!r} has, and sharding.allow = {list(config.sharding.allow)} does not split it"
        )
    return f"the tables take {gib(need.whole)} of {gib(has)} that {size} have for them, but not in pieces that fit"


def ways_out(config: Config, need: Need, cluster: Cluster) -> list[str]:
    """What would fit."""
    has = room(cluster)
    ways = []
    if cluster.table_memory is not None and has < room(replace(cluster, table_memory=None)):
        ways.append("a larger sharding.memory")
    if not _SPLIT & set(config.sharding.allow):
        ways.append('"row_wise" in sharding.allow')
    if need.whole > has:
        ways += _smaller(need, has)
    if need.largest <= room(cluster) // cluster.size or _SPLIT & set(config.sharding.allow):
        ways += _more_ranks(config, need, cluster)
    if cluster.device.type == "cuda" and need.whole <= cluster.size * cluster.budget.host // 2:
        ways.append('tables.kernel = "fused_uvm_caching", which keeps them in the hosts\' memory')
    return ways


def _smaller(need: Need, has: int) -> list[str]:
    ways = [f"{has / need.whole:.0%} of the rows"]
    if need.float16_weights < need.weights and need.float16_weights + need.state <= has:
        ways.append('tables.dtype = "float16"')
    if need.state > need.weights // 8 and need.weights + need.weights // 16 <= has:
        ways.append('the optimizer "rowwise_adagrad"')
    return ways


def _more_ranks(config: Config, need: Need, cluster: Cluster) -> list[str]:
    """The next number of full nodes that has the room and divides the lanes."""
    each = room(cluster) // cluster.size
    local = cluster.local_size
    least = max(cluster.size + local, math.ceil(need.whole / each / local) * local)
    lanes = config.data.lanes
    fitting = [size for size in range(least, lanes + 1, local) if lanes % size == 0]
    if fitting:
        return [f"--world-size {fitting[0]}"]
    return [f"--world-size {least} with data.lanes a multiple of it"]


def gib(number: float) -> str:
    """Bytes as text."""
    return f"{number / 2**30:,.1f} GiB"
