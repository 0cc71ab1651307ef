"""A Slurm of two nodes on one machine: munged, slurmctld and two slurmd, with all that they write in one folder.

The processes run in namespaces of their own (network, mounts, process ids): ports are free, the nodes' names resolve,
and nothing is left of it when the check has ended, however it ends.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.checks import run, wait_until

NODES = ("node-1", "node-2")
INSIDE = "ADATT_INSIDE_NAMESPACES"
NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
REQUEUE_SECONDS = 20
"""How long Slurm lets a job wait that it has put back into the queue: the life of a step's credential."""
KILL_WAIT_SECONDS = 60
"""What the cluster leaves a job after SIGTERM. Slurm's own default of 30 s is too short for large models."""

CONFIGURATION = """
ClusterName=adatt
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait={kill_wait}
MessageTimeout=60
ReturnToService=2
NodeName=node-1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=6819 CPUs=2 RealMemory=4096
NodeName=node-2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=6820 CPUs=2 RealMemory=4096
PartitionName=usual Nodes=node-[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={kill_wait}
PartitionName=urgent Nodes=node-[1-2] MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def inside_namespaces(main: Callable[[Path], int]) -> int:
    """The exit code of `main`, called in namespaces of its own with a folder that is removed outside of them.

    So the folder goes whatever ends the processes inside.
    """
    if (folder := os.environ.get(INSIDE)) is not None:
        return main(Path(folder))
    with tempfile.TemporaryDirectory(prefix="adatt-slurm-", ignore_cleanup_errors=True) as folder:
        again = [*NAMESPACES, sys.executable, "-m", "tests.slurm", *sys.argv[1:]]
        return subprocess.run(again, env={**os.environ, INSIDE: folder}, check=False).returncode


class Cluster:
    """Starts the daemons, and asks them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._configuration = folder / "slurm.conf"

    def start(self) -> None:
        """Until both nodes are idle."""
        _prepare_namespaces(self.folder)
        text = CONFIGURATION.format(folder=self.folder, requeue=REQUEUE_SECONDS, kill_wait=KILL_WAIT_SECONDS)
        self._configuration.write_text(text.lstrip())
        os.environ["SLURM_CONF"] = str(self._configuration)

        (self.folder / "state").mkdir()
        self._start_munge()
        run("slurmctld")
        for node in NODES:
            (self.folder / f"spool-{node}").mkdir()
            run("slurmd", "-N", node)
        wait_until(lambda: self.states() == ["idle", "idle"], f"idle nodes in {self.folder}", 60)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        run("munged", "--force", f"--socket={self.folder}/munge.socket", *files)

    def stop(self) -> None:
        """The daemons end; where this is not reached, they end with the namespace."""
        run("scontrol", "shutdown")

    def states(self) -> list[str]:
        """Of each node."""
        return run("sinfo", "--noheader", "--Node", "--partition=usual", "--format=%T").split()

    def submit(self, script: Path, *options: str) -> int:
        """Number of the job."""
        where = script.parent
        return int(run("sbatch", "--parsable", f"--chdir={where}", *options, script))

    def job(self, number: int) -> dict[str, str]:
        """What `scontrol show job` knows."""
        return dict(re.findall(r"(\w+)=(\S*)", run("scontrol", "show", "job", str(number))))

    def wait_for(self, number: int, state: str, seconds: float) -> None:
        """Until the job has the state; AssertionError where it ends in another."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"} - {state}

        def reached() -> bool:
            now = self.job(number)["JobState"]
            assert now not in ends, f"job {number} ended in {now}, not in {state}"
            return now == state

        wait_until(reached, f"job {number} in state {state}", seconds)


def _prepare_namespaces(folder: Path) -> None:
    """The loopback is up, and the nodes' names resolve."""
    run("ip", "link", "set", "lo", "up")
    # glibc resolves no IPv4 name for Slurm where 127.0.0.1 is the only address.
    run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {os.uname().nodename} {' '.join(NODES)}\n")
    run("mount", "--bind", hosts, "/etc/hosts")
