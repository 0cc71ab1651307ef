"""The clocks of the nodes agree: records are ordered by them, and object stores refuse requests of another time."""

import time

from trainer.distributed.world import World, barrier
from trainer.errors import ConfigError

MOST_SECONDS = 60.0
"""That the clock of a node may be off; a meeting of all ranks takes a part of it."""


def check_clocks(world: World, ahead: float = 0.0) -> None:
    """Raises ConfigError on all ranks if the clock of one is far from rank 0's. Collective: call on all ranks.

    `ahead`: seconds by which this rank's clock is taken to be off, for tests.
    """
    if world.size == 1:
        return
    barrier()  # so that all look at their clocks at once
    clocks = world.gather((world.name, time.time() + ahead))
    first_name, first = clocks[0]
    name, off = max(((name, clock - first) for name, clock in clocks), key=lambda entry: abs(entry[1]))
    if abs(off) > MOST_SECONDS:
        direction = "ahead of" if off > 0 else "behind"
        raise ConfigError(
            f"the clock of {name} is {abs(off):,.0f} s {direction} that of {first_name}; set it, by NTP or chrony"
        )
