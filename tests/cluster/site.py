"""Where a case takes place: a folder, data, names of its own, and what one host alone makes of the same training."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from tests.cluster.hosts import Hosts
from tests.cluster.jobs import HOME, BrokenError, Training, read_lines, write_config
from tests.trainer.datasets import write_dataset


class OneHost:
    """Losses of the training on one host, by the number of ranks; each made once, when it is asked for first."""

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder = folder
        self._data = data
        self._losses: dict[int, list[float]] = {}
        self._locks = {ranks: Lock() for ranks in range(1, 9)}

    def losses(self, ranks: int) -> list[float]:
        """The loss at every record of the training."""
        with self._locks[ranks]:
            if ranks not in self._losses:
                self._losses[ranks] = self._train(ranks)
            return self._losses[ranks]

    def _train(self, ranks: int) -> list[float]:
        folder = self._folder / f"one-host-{ranks}"
        config = write_config(folder, self._data)
        call = [sys.executable, "-m", "launch.entrypoint", "train", str(config)]
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(HOME),
            "PROCESSES": str(ranks),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(call, cwd=HOME, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BrokenError(f"{ranks} ranks on one host ended with {done.returncode}: {done.stderr[-1500:]}")
        return [record["loss"] for record in read_lines(folder / "run" / "train.jsonl")]


@dataclass(frozen=True)
class Site:
    """Of one case."""

    label: str
    folder: Path
    data: Path
    one_host: OneHost

    @contextmanager
    def training(self, number: int, *, bridged: bool = True, **changes: dict[str, Any]) -> Iterator[Training]:
        """Context with so many hosts, and the training on them; with it the hosts go, and what runs there."""
        config = write_config(self.folder, self.data, **changes)
        with Hosts(self.label, number, bridged=bridged) as hosts:
            yield Training(hosts, config)


def write_data(folder: Path) -> Path:
    """The data of all cases."""
    write_dataset(folder / "train", 12_000, seed=1)
    write_dataset(folder / "test", 600, seed=2)
    return folder
