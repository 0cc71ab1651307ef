"""torchrun's variables: the one place that reads them. Without torchrun this process is the only rank."""

import os
from dataclasses import dataclass

from trainer.errors import ConfigError

MOST = 1 << 31
"""More than any count of processes."""
WAY_OUT = (
    "torchrun, like any launcher, sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for every process; to run "
    "without one, unset them"
)


@dataclass(frozen=True)
class Ranks:
    """Who this process is among the processes of the run, and where they meet."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    announced: bool
    """Whether a launcher set the variables, so that there is a rendezvous to join."""
    replaceable: bool
    """Whether the launchers start the ranks again, on the nodes that are left, when one is lost."""
    address: str = ""
    port: int = 0
    """Of the store at which the ranks meet."""
    hosts_store: bool = False
    """Whether that store is this process's to open; under torchrun it mostly is the launcher's."""
    attempt: str = "0"
    """torchrun's count of restarts: its store outlives them, with what earlier ranks have left there. `launch.agent`
    makes a store for each start, and says so: its nodes may have restarted unlike often."""


def speaks() -> bool:
    """Whether this process is the one of the run that tells what all of them would say."""
    return os.environ.get("RANK", "0") in ("", "0")


def announced_ranks() -> Ranks:
    """What the launcher says; raises ConfigError if that is not whole, or cannot be."""
    replaceable = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") not in ("", "0")
    if not {"RANK", "WORLD_SIZE"} & os.environ.keys():
        return Ranks(rank=0, size=1, local_rank=0, local_size=1, announced=False, replaceable=replaceable)

    size = _number("WORLD_SIZE", 1, MOST)
    rank = _number("RANK", 0, size - 1)
    local_size = _number("LOCAL_WORLD_SIZE", 1, size) if "LOCAL_WORLD_SIZE" in os.environ else size  # as torchrec does
    local_rank = _number("LOCAL_RANK", 0, local_size - 1) if "LOCAL_RANK" in os.environ else 0

    return Ranks(
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        announced=True,
        replaceable=replaceable,
        address=_text("MASTER_ADDR"),
        port=_number("MASTER_PORT", 1, 65535),
        hosts_store=rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        attempt=os.environ.get("ADATT_ATTEMPT") or os.environ.get("TORCHELASTIC_RESTART_COUNT") or "0",
    )


def _number(name: str, least: int, most: int) -> int:
    text = _text(name)
    if not text.isdecimal() or not least <= int(text) <= most:
        bounds = f"a whole number from {least} to {most}" if most < MOST else f"a whole number, {least} or more"
        raise ConfigError(f"{name} is {text!r}, but must be {bounds}; {WAY_OUT}")
    return int(text)


def _text(name: str) -> str:
    text = os.environ.get(name, "").strip()
    if not text:
        found = "empty" if name in os.environ else "not set"
        raise ConfigError(f"{name} is {found}, though WORLD_SIZE or RANK is set; {WAY_OUT}")
    return text
