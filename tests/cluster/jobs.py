"""A training on hosts of `tests.cluster.hosts`: a launcher on each, what they write, how and when they end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import tomli_w

from tests.cluster.hosts import Hosts, kill_all_in, pids_in, signal_all
from tests.trainer.datasets import config_values, nothing_to_measure
from trainer.analysis.audit.audit import audit_run

HOME = Path(__file__).parents[2]
PORT = 29400
LONGEST_SHOWN = 90
"""Characters of a message in the table."""
SAMPLES = 9_600
BATCH, LANES = 96, 12
COLLECTIVE_SECONDS = 8
START_SECONDS = 180.0
"""A training has begun after this time, however busy the machine is."""
ELASTIC = "last_call_timeout=5,keep_alive_interval=2,keep_alive_max_attempt=5"
"""Nodes that are silent for 10 s are left out of the next round, which begins 5 s after enough have come."""


class BrokenError(AssertionError):
    """A promise is not kept."""


def expect(kept: object, otherwise: str) -> None:
    """Raises BrokenError with these words if a promise is not kept."""
    if not kept:
        raise BrokenError(otherwise)


def write_config(folder: Path, dataset: Path, **changes: dict[str, Any]) -> Path:
    """The config of a case: 100 steps, a checkpoint after every tenth; `changes` to its sections."""
    sections: dict[str, dict[str, Any]] = {
        "run": {"dir": str(folder / "run"), "trace": True, "collective_seconds": COLLECTIVE_SECONDS},
        "data": {"global_batch_size": BATCH, "lanes": LANES},
        "train": {"samples": SAMPLES},
        "log": {"every_samples": BATCH},
        "checkpoint": {"every_samples": 10 * BATCH, "grace_seconds": 4},
        "sharding": {"allow": ["row_wise"]},  # table_row_wise depends on which ranks share a host
        **nothing_to_measure(dataset),
    }
    for name, values in changes.items():
        sections[name] = {**sections.get(name, {}), **values}

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(config_values(dataset, **sections)), encoding="utf-8")
    return path


class Node:
    """The launcher on one host."""

    def __init__(self, hosts: Hosts, host: int, config: Path, environment: dict[str, str]) -> None:
        self.name = hosts.names[host]
        self.output = config.parent / f"output-{host}-{time.monotonic_ns()}"
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(HOME),
            "PROCESSES": "1",
            "OMP_NUM_THREADS": "1",
            "GRACE_SECONDS": "5",
            "COLLECTIVE_SECONDS": str(COLLECTIVE_SECONDS),
            "GLOO_SOCKET_IFNAME": "eth0",
            **environment,
        }
        call = [sys.executable, "-m", "launch.entrypoint", "train", str(config)]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                hosts.command(host, call), cwd=HOME, env=variables, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def text(self) -> str:
        """What it and its ranks have written."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    @property
    def errors(self) -> list[str]:
        """The lines that tell of an error."""
        return [line for line in self.text.splitlines() if line.startswith("error: ")]

    @property
    def first_error(self) -> str:
        """The beginning of the first of them, for the table."""
        return f"`{shorten(self.errors[0], LONGEST_SHOWN, placeholder='…')}`"

    @property
    def ranks(self) -> list[int]:
        """Processes of its ranks."""
        found = []
        for pid in pids_in(self.name):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if Path(f"/proc/{pid}").exists() else []
            if b"trainer" in words:
                found.append(pid)
        return sorted(found)

    def end(self, within: float) -> int:
        """Its exit code; BrokenError if it does not end within so many seconds, or leaves processes behind."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise BrokenError(f"{self.name} has not ended within {within:g} s; it wrote: {self.text[-1500:]}") from None

        wait_for(
            lambda: not pids_in(self.name), 5, f"{self.name} ended with {code} and left ranks; it wrote: {self.text}"
        )
        return code

    def kill(self) -> None:
        """Ends all its processes, as a power cut does."""
        kill_all_in(self.name)
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all its processes."""
        signal_all(pids_in(self.name), number)


class Training:
    """A run that is trained on hosts."""

    def __init__(self, hosts: Hosts, config: Path) -> None:
        self.hosts = hosts
        self.config = config
        self.run = config.parent / "run"
        self.nodes: list[Node] = []

    def start(self, host: int, **environment: str) -> Node:
        """Starts the launcher on a host."""
        node = Node(self.hosts, host, self.config, environment)
        self.nodes.append(node)
        return node

    def records(self) -> list[dict[str, Any]]:
        """The records of train.jsonl."""
        return read_lines(self.run / "train.jsonl")

    @property
    def samples(self) -> int:
        """Samples of the newest record."""
        records = self.records()
        return records[-1]["samples"] if records else 0

    def starts(self) -> list[dict[str, Any]]:
        """The records of its starts."""
        return read_lines(self.run / "segments.jsonl")

    def wait_for_samples(self, samples: int) -> None:
        """Until so many have been trained."""
        wait_for(lambda: self.samples >= samples, START_SECONDS, f"{samples} samples are not reached", self)

    def check(self) -> None:
        """BrokenError unless the run has ended well, with every row once, as `adatt audit` says."""
        expect(self.samples == SAMPLES, f"it ended at {self.samples} samples")
        self.check_rows()

    def check_rows(self) -> None:
        """BrokenError if a row was lost or trained twice, as `adatt audit` says."""
        problems = audit_run(str(self.run)).promises_broken
        expect(not problems, f"adatt audit: {'; '.join(problems)}")

    def told(self) -> str:
        """What all launchers and their ranks have written last, for a message."""
        return "".join(f"\n--- {node.name} wrote: {node.text[-1500:]}" for node in self.nodes)

    def losses(self) -> list[float]:
        """The loss at every record."""
        return [record["loss"] for record in self.records()]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def wait_for(condition: Callable[[], bool], seconds: float, otherwise: str, training: Training | None = None) -> float:
    """The seconds until a condition holds; BrokenError if it does not in time, or a launcher ends badly before."""
    begin = time.monotonic()
    while not condition():
        passed = time.monotonic() - begin
        expect(passed < seconds, f"{otherwise} within {seconds:g} s{training.told() if training else ''}")
        ended = [] if training is None else [node for node in training.nodes if node.process.poll() not in (None, 0)]
        expect(not ended or condition(), f"{otherwise}: a launcher has ended{training.told() if training else ''}")
        time.sleep(0.02)
    return time.monotonic() - begin


def meeting(host: int = 0, nodes: str = "2", **variables: str) -> dict[str, str]:
    """Variables of nodes that meet at a host by torchrun's rendezvous."""
    return {"NNODES": nodes, "RDZV_ENDPOINT": f"node-{'abcdefgh'[host]}:{PORT}", "RDZV_CONF": ELASTIC, **variables}


def with_master(rank: int, nodes: int = 2, **variables: str) -> dict[str, str]:
    """Variables of a node that meets the others at MASTER_ADDR."""
    return {"NNODES": str(nodes), "NODE_RANK": str(rank), "MASTER_ADDR": "node-a", **variables}
