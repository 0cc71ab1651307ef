"""A real Slurm runs what `adatt launch slurm` writes: `make slurm-check`. Prints the table of docs/operations.md.

Jobs are put back into the queue by `scontrol requeue`, by a partition of higher priority and by their time limit, and
cancelled; exit 1 where one does not save, resume and end as it should.
"""

import re
import sys
from pathlib import Path

from tests.checks import Table, end_on_sigterm, missing_tools, refused, run, skip
from tests.slurm.cluster import KILL_WAIT_SECONDS, NAMESPACES, Cluster, inside_namespaces
from tests.slurm.jobs import Jobs

TOOLS = {
    "slurmctld": ["slurmctld"],
    "slurmd": ["slurmd"],
    "slurm-client": ["sbatch", "scontrol", "sinfo"],
    "munge": ["munged"],
    "iproute2": ["ip"],
}
DATA = ("synth", "datasets/quickstart", "--samples", "1M", "--test-samples", "2k", "--tasks", "five")


def main() -> int:
    """The exit code."""
    end_on_sigterm()
    if reason := missing_tools(TOOLS) or refused(*NAMESPACES):
        return skip(reason)
    return inside_namespaces(_check)


def _check(folder: Path) -> int:
    table = Table()
    cluster = Cluster(folder)
    with table.row("two nodes on this machine") as seen:
        cluster.start()
        version = re.findall(r"[\d.]+", run("sinfo", "--version"))[0]
        seen.append(f"Slurm {version}, both idle; `KillWait={KILL_WAIT_SECONDS}`")

    jobs = Jobs(cluster)
    with table.row(f"`adatt {' '.join(DATA)}`") as seen:
        jobs.adatt(*DATA)
        seen.append("exit 0")

    _check_jobs(table, jobs)
    cluster.stop()
    table.close()
    return 0


def _check_jobs(table: Table, jobs: Jobs) -> None:
    number = jobs.submit("requeued", samples=80_000)
    with table.row("`scontrol requeue`") as seen:
        jobs.wait_for_training(number, "requeued", starts=1)
        run("scontrol", "requeue", str(number))
        seen.append(jobs.stopped(number, "requeued", starts=1))
    with table.row("an urgent job in a partition of higher priority") as seen:
        jobs.wait_for_training(number, "requeued", starts=2)
        jobs.submit_urgent()
        seen.append(jobs.stopped(number, "requeued", starts=2))
    with table.row("that training, at its end") as seen:
        seen.append(jobs.completed(number, "requeued", at_least=3))

    samples = jobs.samples_in("requeued", seconds=100)  # more than the limit leaves to one start
    number = jobs.submit("limited", samples=samples)
    with table.row("`--time 00:02:00`") as seen:
        jobs.wait_for_training(number, "limited", starts=1)
        seen.append(jobs.stopped(number, "limited", starts=1))
        seen.append("the script's `scontrol requeue`")
        seen.append(jobs.completed(number, "limited", at_least=2))

    number = jobs.submit("cancelled", samples=1_000_000)
    with table.row("`scancel`") as seen:
        jobs.wait_for_training(number, "cancelled", starts=1)
        run("scancel", str(number))
        seen.append(jobs.cancelled(number, "cancelled"))


if __name__ == "__main__":
    sys.exit(main())
