"""Copies of the tables (`sharding.replicas`), as a plan sees one: its ranks, and the samples that these train."""

from dataclasses import dataclass, replace
from typing import TypeVar

from trainer.config.run_config import Config
from trainer.planning.topology import Cluster
from trainer.planning.workload import Workload
from trainer.sharding.replicas import ranks_of_copy

Value = TypeVar("Value")


@dataclass(frozen=True)
class Copies:
    """Alike, each on the same number of ranks."""

    number: int
    cluster: Cluster
    """Of one copy."""
    work: Workload
    """That one copy trains in a step."""
    steps: float
    """Between two averagings."""

    def on_all_ranks(self, of_copy: list[Value]) -> list[Value]:
        """A value for each rank of one copy as one for each rank of all: neighbours hold the same part."""
        return [value for value in of_copy for _ in range(self.number)]


def copies_of(config: Config, cluster: Cluster, work: Workload) -> Copies:
    """Those that a config asks for; raises ConfigError if such ranks cannot hold them."""
    sharding = config.sharding
    ranks = ranks_of_copy(sharding, cluster.ranks)
    samples = sharding.replica_sync_samples or work.global_batch_size
    return Copies(
        sharding.replicas,
        replace(cluster, size=ranks.size, local_size=ranks.local_size),
        replace(work, global_batch_size=work.global_batch_size // sharding.replicas),
        max(1.0, samples / work.global_batch_size),
    )
