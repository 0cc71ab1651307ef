"""Trains a run through SIGKILLs: at random times, of random ranks, during saves, evaluations and restarts.

A start of the run is a number of ranks and the phase in which one of them is killed; the others die with it, as under
a launcher. The start that nobody kills ends the run.
"""

import contextlib
import io
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.trace import read_trace
from tests.ranks import run_on_ranks, started_ranks
from tests.trainer.datasets import config_values
from trainer.checkpoint.storage import list_folders, read_state
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.run.starts import read_starts, surviving
from trainer.train import train

Phase = Literal["training", "save", "evaluation", "restart"]
PHASES: tuple[Phase, ...] = ("training", "save", "evaluation", "restart")
START_SECONDS, TRAIN_SECONDS = 60.0, 0.5


@dataclass(frozen=True)
class Kill:
    """What has been done to one start of the run."""

    ranks: int
    phase: Phase
    rank: int
    died: bool
    """False: the run had ended before the signal."""
    inside: bool
    """Whether what it left shows that a save, or an evaluation, was under way; true for the other phases."""


def fault_config(dataset: Path, folder: Path, model: dict[str, Any] | None = None) -> Config:
    """One pass over 8,000 rows in batches of 64, with a checkpoint after every tenth and two milestones.

    The row groups of 97 rows come in blocks, so that starts begin in the middle of one. `model`: another than adatt.
    """
    values = config_values(
        dataset,
        data={"block_rows": 40},
        run={"dir": str(folder), "trace": True},
        train={"samples": 8_000},
        evaluate={"at_samples": [2_560, 5_120]},
        checkpoint={"every_samples": 640},
    )
    if model is not None:
        values["model"] = model
    return parse_config(values, "test")


def train_on_rank(world: World, config: Config) -> None:
    """What every rank runs."""
    with contextlib.redirect_stdout(io.StringIO()):
        train(config, world)


def train_through_kills(config: Config, sizes: list[int], phases: list[Phase], seed: int) -> list[Kill]:
    """Starts the run on `sizes[i]` ranks and kills one in `phases[i]`, for each i; what was done."""
    chance = random.Random(seed)
    kills = []
    for size, phase in zip(sizes, phases, strict=True):
        rank = chance.randrange(size)
        with started_ranks(size, train_on_rank, config) as (processes, _):
            victim = processes[rank]
            _wait_for(phase, RunDirectory(config.run.dir), chance, victim.is_alive)
            died = victim.is_alive()
            victim.kill()
            victim.join()
        kills.append(Kill(size, phase, rank, died, _cut_short(phase, RunDirectory(config.run.dir))))
    return kills


def _wait_for(phase: Phase, run: RunDirectory, chance: random.Random, alive: Callable[[], bool]) -> None:
    """Until the start is in the phase, and a random moment longer."""
    segments = len(_segments(run))
    deadline = time.monotonic() + START_SECONDS

    def until(condition: Callable[[], bool]) -> None:
        while alive() and not condition() and time.monotonic() < deadline:
            time.sleep(0.002)

    if phase == "restart":
        time.sleep(chance.uniform(0, 1.5))
        return
    until(lambda: len(_segments(run)) > segments)
    if phase == "training":
        deadline = time.monotonic() + chance.uniform(0, TRAIN_SECONDS)
        until(lambda: False)
    elif phase == "save":
        for _ in range(chance.randrange(2)):
            until(lambda: _saving(run))
            until(lambda: not _saving(run))
        until(lambda: _saving(run))
        time.sleep(chance.uniform(0, 0.05))
    else:
        milestones = _milestones(run)
        until(lambda: len(_milestones(run)) > len(milestones))
        time.sleep(chance.uniform(0, 0.3))


def _segments(run: RunDirectory) -> list[object]:
    return list(read_starts(run.segments)) if run.segments.exists() else []


def _saving(run: RunDirectory) -> bool:
    return any(run.checkpoints.glob("*.partial"))


def _milestones(run: RunDirectory) -> set[int]:
    """Checkpoints kept for good: an evaluation begins when one is started."""
    return {int(path.name) for path in run.checkpoints.glob("*") if path.name in ("2560", "5120", "8000")}


def _cut_short(phase: Phase, run: RunDirectory) -> bool:
    """Whether a start that is dead now was in the phase: half a checkpoint is there, or a milestone has no result."""
    evaluated = {record["samples"] for record in read_records(run.evaluations)}
    return {"save": _saving(run), "evaluation": not _milestones(run) <= evaluated}.get(phase, True)


def finish(config: Config, size: int) -> None:
    """Runs to the end, unharmed."""
    run_on_ranks(size, train_on_rank, config, timeout_s=2 * START_SECONDS)


def final_tensors(config: Config) -> dict[str, str]:
    """Digests of all weights and optimizer states at the end, by file."""
    checkpoints = RunDirectory(config.run.dir).checkpoints
    state = read_state(checkpoints / list_folders(checkpoints)[-1])
    return {name: record.digest for name, record in state.files.items() if name.endswith(".distcp")}


def rows_by_trace(config: Config) -> dict[int, int]:
    """How many rows of the dataset the surviving line was handed once, twice, …: a count of the traces alone."""
    run = RunDirectory(config.run.dir)
    segments = read_starts(run.segments)
    rows = []
    for piece in surviving(segments):
        for rank in range(segments[piece.segment].world_size):
            samples, row = read_trace(run.trace_file(piece.segment, rank))
            rows.append(row[(samples >= piece.begin) & (samples < piece.end)])
    times = np.bincount(np.concatenate(rows))
    return {int(count): int((times == count).sum()) for count in np.unique(times)}
