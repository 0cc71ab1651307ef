"""Starts the trainer on this machine: one process per GPU, or the number asked for.

    python -m launch.local --processes 2 train configs/quickstart.toml

is `torchrun --standalone --nproc-per-node 2 -m trainer train configs/quickstart.toml` with the cores shared out.
"""

import argparse
import os
import sys


def torchrun_command(processes: int, arguments: list[str]) -> list[str]:
    """The command line that starts `processes` ranks on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*launcher, "-m", "trainer", *arguments]


def threads_per_process(processes: int) -> int:
    """Cores of this machine, shared out; torchrun would give every process one."""
    return max(len(os.sched_getaffinity(0)) // processes, 1)


def main() -> None:
    """Replaces this process by torchrun."""
    parser = argparse.ArgumentParser(prog="python -m launch.local", description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=1, help="ranks to start (default: 1)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a command of adatt and its arguments")
    options = parser.parse_args()
    if options.processes < 1 or not options.command:
        parser.error("give --processes ≥ 1 and a command, such as: train configs/quickstart.toml")
    command = torchrun_command(options.processes, options.command)
    threads = os.environ.get("OMP_NUM_THREADS", str(threads_per_process(options.processes)))
    os.execvpe(command[0], command, {**os.environ, "OMP_NUM_THREADS": threads})


if __name__ == "__main__":
    main()
