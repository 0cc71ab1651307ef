"""Starts any command of `adatt` on this node, those that work on several ranks under torchrun; the image's entry point.

    PROCESSES=2 python -m launch.entrypoint train configs/quickstart.toml

is `torchrun --standalone --nproc-per-node 2 -m trainer train configs/quickstart.toml`, but the agent of torchrun that
watches the ranks runs inside this process and knows how the trainer ends (`launch.agent`): a request to stop reaches
every rank and leaves it time to save, and this process ends with the exit code of the rank that failed first.

Variables: `PROCESSES`, ranks on this node; `GRACE_SECONDS`, how long ranks have to end after a signal before they are
killed (default 130: a little more than that of `checkpoint.grace_seconds`, so that a rank can say that it has failed
to); `STOPPED_CODE`, exit code in place of 75, for a scheduler that starts again after certain codes only. Several
nodes: `NNODES`, and either `RDZV_ENDPOINT=HOST:PORT` (with torchrun's `RDZV_BACKEND`, `RDZV_ID`, `RDZV_CONF`) or
`MASTER_ADDR`, `MASTER_PORT`, `NODE_RANK`.

`COLLECTIVE_SECONDS`: how long another node, or the place where the nodes meet, may be silent before it is given up
(default 60, that of `run.collective_seconds`).

Elastic: `MAX_RESTARTS` times, on each node, all ranks start again from the last checkpoint when one is lost.
`NNODES=MIN:MAX` is a range: a job that loses nodes goes on with those that are left, at least MIN, and takes in those
that come (which costs no restart). It needs `RDZV_ENDPOINT`; `MAX_RESTARTS` is then 3 where it is not set, else 0. The
place where the nodes meet lives in the launcher of the node that `RDZV_ENDPOINT` names: with that node the job ends.
"""

import os
import re
import signal
import sys
from collections.abc import Mapping

from trainer.process.ending import leave
from trainer.process.output import open_output

RANKED_COMMANDS = (["train"], ["evaluate"], ["predict"], ["bench", "train"])
"""Commands that share their work among ranks; every other one is a single process."""

ELASTIC_RESTARTS = 3
"""Default of MAX_RESTARTS for a range of nodes: enough for some lost nodes, few for a program that always fails."""


STOPPED = 75
"""How ranks end that were stopped on request, after saving."""


def uses_ranks(arguments: list[str]) -> bool:
    """Whether this command line of `adatt` is to be started once per rank."""
    if "--help" in arguments:
        return False
    return any(arguments[: len(command)] == command for command in RANKED_COMMANDS)


def torchrun_arguments(environment: Mapping[str, str], arguments: list[str], module: str = "trainer") -> list[str]:
    """torchrun's arguments for this node; raises ValueError if the environment does not say which node it is."""
    processes = _whole_number(environment, "PROCESSES", 1, at_least=1)
    return ["--nproc-per-node", str(processes), *_rendezvous(environment), "-m", module, *arguments]


def threads_per_process(processes: int) -> int:
    """Cores of this machine, shared out; torchrun would give every process one thread."""
    return max(len(os.sched_getaffinity(0)) // processes, 1)


def exit_code(process_code: int) -> int:
    """What a shell would report for a process: a signal (a negative code) counts from 128."""
    return process_code if process_code >= 0 else 128 - process_code


def _rendezvous(environment: Mapping[str, str]) -> list[str]:
    fewest, most = _nodes(environment)
    restarts = _whole_number(environment, "MAX_RESTARTS", ELASTIC_RESTARTS if fewest < most else 0, at_least=0)
    how_often = ["--max-restarts", str(restarts)]
    if environment.get("RDZV_ENDPOINT"):
        return ["--nnodes", f"{fewest}:{most}", *how_often, *_meeting(environment)]
    if fewest < most:
        raise ValueError(f"NNODES is a range, {fewest}:{most}; set RDZV_ENDPOINT=HOST:PORT, where the nodes meet")

    if most == 1:  # in a container neither its host name nor localhost need resolve
        where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
        return ["--nnodes", "1", *how_often, *where]

    if restarts:
        raise ValueError(
            f"MAX_RESTARTS is {restarts}, but nodes meet at MASTER_ADDR only once; set RDZV_ENDPOINT=HOST:PORT instead"
        )

    return ["--nnodes", str(most), *_master(environment, most)]


def _nodes(environment: Mapping[str, str]) -> tuple[int, int]:
    """The fewest and the most nodes of the job."""
    text = environment.get("NNODES") or "1"
    numbers = re.fullmatch(r"([0-9]+)(?::([0-9]+))?", text)
    fewest = most = 0

    if numbers:
        fewest = int(numbers[1])
        most = int(numbers[2] or fewest)

    if not 0 < fewest <= most:
        raise ValueError(f"NNODES is {text!r}; give the number of nodes, at least 1, or a range of it such as 1:2")

    return fewest, most


def _meeting(environment: Mapping[str, str]) -> list[str]:
    backend = environment.get("RDZV_BACKEND") or "c10d"
    name = environment.get("RDZV_ID") or "adatt"
    where = ["--rdzv-backend", backend, "--rdzv-endpoint", environment["RDZV_ENDPOINT"], "--rdzv-id", name]
    settings = environment.get("RDZV_CONF")
    return [*where, "--rdzv-conf", settings] if settings else where


def _master(environment: Mapping[str, str], nodes: int) -> list[str]:
    address = environment.get("MASTER_ADDR")
    if not address or not environment.get("NODE_RANK"):
        raise ValueError(
            f"NNODES is {nodes}, but MASTER_ADDR and NODE_RANK are not both set; set them (MASTER_ADDR: the host of "
            f"node 0; NODE_RANK: 0 to {nodes - 1}) or RDZV_ENDPOINT=HOST:PORT on every node"
        )

    node_rank = _whole_number(environment, "NODE_RANK", 0, at_least=0)
    if node_rank >= nodes:
        raise ValueError(f"NODE_RANK is {node_rank}; with NNODES={nodes} the last node is {nodes - 1}")

    port = _whole_number(environment, "MASTER_PORT", 29500, at_least=1)  # torchrun's own default
    return ["--node-rank", str(node_rank), "--master-addr", address, "--master-port", str(port)]


def _whole_number(environment: Mapping[str, str], name: str, default: int, at_least: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or int(text) < at_least:
        raise ValueError(f"{name} is {text!r}; give a whole number of at least {at_least}")
    return int(text)


def _with_processes(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with PROCESSES: one for each GPU where the user did not say."""
    if environment.get("PROCESSES"):
        return dict(environment)
    import torch

    return {**environment, "PROCESSES": str(torch.cuda.device_count() or 1)}


def launch(environment: Mapping[str, str], arguments: list[str], module: str = "trainer") -> int:
    """Exit code of the ranks of this node, each `python -m module arguments`."""
    try:
        environment = _with_processes(environment)
        launcher_arguments = torchrun_arguments(environment, arguments, module)
        grace_seconds = _whole_number(environment, "GRACE_SECONDS", 130, at_least=1)
        collective_seconds = _whole_number(environment, "COLLECTIVE_SECONDS", 60, at_least=1)
        stopped_code = _whole_number(environment, "STOPPED_CODE", STOPPED, at_least=1)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else stacks of native code where a node is lost
    from launch.run import run_ranks

    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process(int(environment["PROCESSES"]))))
    code = exit_code(run_ranks(launcher_arguments, grace_seconds, collective_seconds))
    return stopped_code if code == STOPPED else code


def main() -> None:
    """Ends with the exit code of the command; a command of one process replaces this one."""
    arguments = sys.argv[1:]
    if not uses_ranks(arguments):
        os.execv(sys.executable, [sys.executable, "-m", "trainer", *arguments])

    open_output()
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until ranks run; then launch.agent handles signals

    leave(launch(os.environ, arguments))


if __name__ == "__main__":
    main()
