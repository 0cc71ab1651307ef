"""What a job asks of a scheduler: nodes, processes and what each process needs, and the times of the config."""

import math
import re
from dataclasses import dataclass

from trainer.config.run_config import Config
from trainer.errors import ConfigError

LAUNCHER_MARGIN_SECONDS = 10
"""From checkpoint.grace_seconds to the launcher's GRACE_SECONDS: a rank that has failed to save can still say so."""
SCHEDULER_MARGIN_SECONDS = 20
"""From checkpoint.grace_seconds to the scheduler's own grace: the launcher ends its ranks itself, and tells."""
RESTARTS = 3
"""Starts after failures that are neither wrong input (2) nor a stop on request (75), as of an elastic launcher."""


@dataclass(frozen=True)
class Process:
    """What one process needs."""

    cpus: int
    gpu: bool
    memory: int
    """GiB, shared memory included."""
    shared_memory: int
    """GiB."""


@dataclass(frozen=True)
class Job:
    """A training on the nodes of a cluster."""

    config: Config
    config_path: str
    changes: tuple[str, ...]
    """`--set` changes to the config."""
    name: str
    nodes: int
    processes: int
    """Of each node."""
    process: Process
    port: int
    """Where the launchers meet, on node 0."""

    @property
    def grace(self) -> int:
        """Seconds that ranks have to save."""
        return math.ceil(self.config.checkpoint.grace_seconds)

    @property
    def arguments(self) -> list[str]:
        """Of `adatt train`, after the config."""
        return [part for change in self.changes for part in ("--set", change)]

    @property
    def values(self) -> dict[str, object]:
        """What every template may show."""
        return {
            "name": self.name,
            "config_path": self.config_path,
            "size": f"{_count(self.nodes, 'node')} with {_count(self.processes, 'process')} each",
            "lanes": self.config.data.lanes,
            "nodes": self.nodes,
            "processes": self.processes,
            "port": self.port,
            "cpus": self.process.cpus,
            "node_cpus": self.process.cpus * self.processes,
            "node_memory": self.process.memory * self.processes,
            "node_shared_memory": self.process.shared_memory * self.processes,
            "collective_seconds": math.ceil(self.config.run.collective_seconds),
            "grace": self.grace,
            "launcher_grace": self.grace + LAUNCHER_MARGIN_SECONDS,
            "scheduler_grace": self.grace + SCHEDULER_MARGIN_SECONDS,
        }


def check_job(job: Job) -> None:
    """Raises ConfigError if the ranks cannot share the lanes, or a name cannot be written into a file of a job."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", job.name):
        raise ConfigError(f"--name {job.name!r}: take up to 40 small letters, digits and hyphens, a letter first")

    for text in (job.config_path, *job.changes):
        if not text.isprintable():
            raise ConfigError(f"{text!r} holds a line break or another control character, which a job cannot pass on")

    if job.process.shared_memory > job.process.memory:
        raise ConfigError(
            f"--shared-memory {job.process.shared_memory} is more than --memory {job.process.memory}, which it is "
            "part of; raise --memory"
        )

    ranks = job.nodes * job.processes
    lanes = job.config.data.lanes
    if lanes % ranks:
        raise ConfigError(
            f"data.lanes = {lanes} cannot be shared by --nodes {job.nodes} x --processes {job.processes} = {ranks} "
            f"ranks; take {_nearest(lanes, ranks)} ranks, or for a new run --set data.lanes={lanes_for(lanes, ranks)}"
        )


def _count(number: int, noun: str) -> str:
    plural = f"{noun}{'es' if noun.endswith('s') else 's'}"
    return f"{number} {noun if number == 1 else plural}"


def _nearest(lanes: int, ranks: int) -> str:
    """The numbers of ranks next to `ranks` that divide `lanes`: `4 or 8`."""
    divisors = [number for number in range(1, lanes + 1) if lanes % number == 0]
    fewer = [number for number in divisors if number < ranks]
    more = [number for number in divisors if number > ranks]
    return " or ".join(str(number) for number in fewer[-1:] + more[:1])


def lanes_for(lanes: int, ranks: int) -> int:
    """The least multiple of the number of ranks that is at least `lanes`."""
    return math.ceil(lanes / ranks) * ranks
