"""torchrun's variables: the one place that reads them. Without torchrun this process is the only rank."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """Who this process is among the processes of the run."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    announced: bool
    """Whether a launcher set the variables, so that there is a rendezvous to join."""
    replaceable: bool
    """Whether the launchers start the ranks again, on the nodes that are left, when one is lost."""


def speaks() -> bool:
    """Whether this process is the one of the run that tells what all of them would say."""
    return os.environ.get("RANK", "0") in ("", "0")


def announced_ranks() -> Ranks:
    """What the launcher says."""

    def read(name: str, default: int) -> int:
        return int(os.environ.get(name, default))

    return Ranks(
        rank=read("RANK", 0),
        size=read("WORLD_SIZE", 1),
        local_rank=read("LOCAL_RANK", 0),
        local_size=read("LOCAL_WORLD_SIZE", 1),
        announced="RANK" in os.environ,
        replaceable=read("TORCHELASTIC_MAX_RESTARTS", 0) > 0,
    )
