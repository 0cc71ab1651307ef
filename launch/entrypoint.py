"""Starts any command of `adatt` on this node, those that work on several ranks under torchrun; the image's entry point.

    PROCESSES=2 python -m launch.entrypoint train configs/quickstart.toml

is `torchrun --standalone --nproc-per-node 2 -m trainer train configs/quickstart.toml`, but torchrun runs inside this
process: its signal handlers end the ranks when the container is stopped, and the container ends with the exit code of
the rank that failed first, where torchrun on its own ends with 1 and a traceback of its own.
"""

import logging
import os
import sys
from collections.abc import Mapping

RANKED_COMMANDS = (["train"], ["evaluate"], ["bench", "train"])
"""Commands that share their work among ranks; every other one is a single process."""

TOLD_EXIT_CODES = (2, 75)
"""Ends that the command itself has explained to the user: wrong input, stopped on request."""


def uses_ranks(arguments: list[str]) -> bool:
    """Whether this command line of `adatt` is to be started once per rank."""
    return "--help" not in arguments and any(arguments[: len(command)] == command for command in RANKED_COMMANDS)


def torchrun_arguments(environment: Mapping[str, str], arguments: list[str]) -> list[str]:
    """torchrun's arguments for this node; ValueError where the environment does not say which node it is."""
    processes = _whole_number(environment, "PROCESSES", 1, at_least=1)
    return ["--nproc-per-node", str(processes), *_rendezvous(environment), "-m", "trainer", *arguments]


def threads_per_process(processes: int) -> int:
    """Cores of this machine, shared out; torchrun would give every process one thread."""
    return max(len(os.sched_getaffinity(0)) // processes, 1)


def exit_code(process_code: int) -> int:
    """What a shell would report for a process: a signal (a negative code) counts from 128."""
    return process_code if process_code >= 0 else 128 - process_code


def _rendezvous(environment: Mapping[str, str]) -> list[str]:
    nodes = _whole_number(environment, "NNODES", 1, at_least=1)
    endpoint, address = environment.get("RDZV_ENDPOINT"), environment.get("MASTER_ADDR")
    if endpoint:
        backend, name = environment.get("RDZV_BACKEND", "c10d"), environment.get("RDZV_ID", "adatt")
        where = ["--rdzv-backend", backend, "--rdzv-endpoint", endpoint, "--rdzv-id", name]
        return ["--nnodes", str(nodes), *where]
    if nodes == 1:
        return ["--standalone", "--local-addr", "localhost"]  # a container's host name may not resolve inside it
    if not address or not environment.get("NODE_RANK"):
        raise ValueError(
            f"NNODES is {nodes}, but MASTER_ADDR and NODE_RANK are not both set; set them (MASTER_ADDR: the host of "
            f"node 0; NODE_RANK: 0 to {nodes - 1}) or RDZV_ENDPOINT=HOST:PORT on every node"
        )
    node_rank = _whole_number(environment, "NODE_RANK", 0, at_least=0)
    if node_rank >= nodes:
        raise ValueError(f"NODE_RANK is {node_rank}; with NNODES={nodes} the last node is {nodes - 1}")
    port = _whole_number(environment, "MASTER_PORT", 29500, at_least=1)  # torchrun's own default
    where = ["--node-rank", str(node_rank), "--master-addr", address, "--master-port", str(port)]
    return ["--nnodes", str(nodes), *where]


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


def _run_ranks(launcher_arguments: list[str]) -> int:
    """Exit code of the ranks of this node."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = parse_args(launcher_arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process(int(options.nproc_per_node))))
    # This logger tells of every rank how it ended; the summary below says it once, where no rank has said why.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        run(options)
    except ChildFailedError as error:
        code = exit_code(error.get_first_failure()[1].exitcode)
        if code not in TOLD_EXIT_CODES:
            sys.stderr.write(f"{error}\n")
        return code
    except SignalException as stopped:
        return exit_code(-stopped.sigval)
    return 0


def main() -> None:
    """Ends with the exit code of the command; a command of one process replaces this one."""
    arguments = sys.argv[1:]
    if not uses_ranks(arguments):
        os.execv(sys.executable, [sys.executable, "-m", "trainer", *arguments])
    try:
        launcher_arguments = torchrun_arguments(_with_processes(os.environ), arguments)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    sys.exit(_run_ranks(launcher_arguments))


if __name__ == "__main__":
    main()
