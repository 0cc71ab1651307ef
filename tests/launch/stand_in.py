"""Stands in for a rank of the trainer: `python -m tests.launch.stand_in FOLDER BEHAVIOUR`.

It leaves one line in FOLDER/starts when it is ready for signals, and one in FOLDER/signals for each that it gets.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
RESTARTS = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
LATER_SECONDS = 0.5
"""How much later one rank ends than another: several looks of the agent."""


def note(file: str, *words: object) -> None:
    with (folder / file).open("a") as lines:
        lines.write(" ".join(map(str, words)) + "\n")


def noted(file: str) -> int:
    return len((folder / file).read_text().splitlines())


def wait(until: Callable[[], bool] = lambda: False) -> None:
    while not until():
        time.sleep(0.02)


def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    note("signals", RANK)
    if behaviour == "stop":
        time.sleep(RANK * LATER_SECONDS)
        os._exit(75)
    if behaviour == "elastic":
        os._exit(75)
    if behaviour == "stop at once when told again" and noted("signals") > SIZE:
        os._exit(143)
    if behaviour.startswith("end") or behaviour == "lose one":
        os._exit(143)


def work_together() -> None:
    """Until another rank is lost."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    distributed.all_reduce(torch.zeros(1))
    note("together", RANK)
    while True:
        distributed.all_reduce(torch.zeros(1))


def main() -> None:
    signal.signal(signal.SIGTERM, on_signal)
    note("starts", RANK, SIZE, RESTARTS, os.getpid(), os.getppid(), os.environ["MASTER_PORT"])
    wait(lambda: behaviour == "elastic" or noted("starts") >= SIZE)
    if behaviour.startswith("end"):
        time.sleep(0 if RANK else LATER_SECONDS)
        sys.exit(int(behaviour.split()[1]))
    if behaviour == "lose one" and RANK == 1 and not RESTARTS:
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "elastic" and SIZE > 1:
        work_together()
    if not RESTARTS:
        wait()


folder, behaviour = Path(sys.argv[1]), sys.argv[2]
if __name__ == "__main__":
    main()
