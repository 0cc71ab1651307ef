"""Ranks on nodes, and the memory that their tables may take."""

from dataclasses import dataclass

from trainer.config.run_config import Config
from trainer.errors import ConfigError
from trainer.planning.devices import Device
from trainer.sharding.memory import RESERVED_MEMORY, Budget
from trainer.sharding.plan import Ranks


@dataclass(frozen=True)
class Cluster:
    """Ranks alike, spread over nodes alike."""

    device: Device
    size: int
    local_size: int
    table_memory: int | None = None
    """`sharding.memory`: most bytes that tables may take of a rank."""

    @property
    def nodes(self) -> int:
        """How many machines."""
        return self.size // self.local_size

    @property
    def ranks(self) -> Ranks:
        """As the planner of tables takes them."""
        return Ranks(self.size, self.local_size, self.device.type)

    @property
    def host_memory(self) -> int:
        """Bytes of a rank's share of its node's memory."""
        return self.device.host_memory // self.local_size

    @property
    def memory(self) -> int:
        """Bytes in which a rank trains: those of its GPU, or of its share of the host's."""
        return self.device.memory or self.host_memory

    @property
    def budget(self) -> Budget:
        """What tables may take of a rank, as a training would find it."""
        share = 1 - RESERVED_MEMORY
        found = Budget(gpu=int(share * self.device.memory), host=int(share * self.host_memory))
        return found.within(self.table_memory)


def local_size_of(device: str, default: int, size: int, nodes: int | None) -> int:
    """Ranks of each node; raises ConfigError if they cannot be alike.

    `default`: of a full node of that device; 0 if all ranks are on one.
    """
    if nodes is not None:
        if size % nodes:
            raise ConfigError(
                f"--world-size {size} is not divisible by --nodes {nodes}; every node has the same number of ranks"
            )
        return size // nodes

    local = min(size, default or size)
    if size % local:
        raise ConfigError(
            f"--world-size {size} does not fill nodes of {local} ranks of {device!r}; "
            f"choose a multiple of {local}, or say --nodes"
        )
    return local


def check_ranks(config: Config, size: int) -> None:
    """Raises ConfigError if the ranks cannot share the lanes equally."""
    if config.data.lanes % size:
        raise ConfigError(
            f"--world-size {size} does not divide data.lanes = {config.data.lanes}: every rank serves the same number "
            f"of lanes; choose a divisor, or other lanes"
        )
