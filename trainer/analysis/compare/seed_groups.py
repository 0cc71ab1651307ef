"""Runs as a comparison sees them: what their evaluations left behind, trainings of one head as one group.

Runs are trainings of one head where their configs are equal but for the seed and what does not touch training, and
their training data are the same.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from data.counts import parse_count
from data.manifest import Manifest
from data.storage.manifest_file import load_manifest
from trainer.config.changes import FREE_KEYS, FREE_SECTIONS
from trainer.config.compatibility import plain
from trainer.config.run_config import Config
from trainer.errors import ConfigError
from trainer.evaluation.bucket_sums import Buckets, TaskBuckets, read_buckets
from trainer.run.directory import RunDirectory
from trainer.run.origin import read_identity

SAME_HEAD = {*FREE_SECTIONS, *FREE_KEYS, "evaluate", "run.seed"} - {"train.samples"}
"""May differ between trainings of one head. train.samples may not: the learning rate falls towards it."""


@dataclass(frozen=True)
class Run:
    """What a run's evaluations left behind."""

    path: str
    head: str
    seed: int
    identity: str
    """Equal for trainings of one head on the same data."""
    points: dict[int, Buckets]
    """By the samples of the milestone; by the samples trained for an evaluation at the end that is no milestone."""


@dataclass(frozen=True)
class Group:
    """Trainings of one head that differ in the seed."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The runs' folders, as BASELINE is written: runs/a-1,runs/a-2."""
        return ",".join(run.path for run in self.runs)

    @property
    def head(self) -> str:
        """Name of the head."""
        return self.runs[0].head

    def at(self, point: int, task: str) -> dict[int, TaskBuckets]:
        """The task's buckets by seed, of the runs that were evaluated there."""
        return {run.seed: run.points[point].tasks[task] for run in self.runs if point in run.points}

    @property
    def points(self) -> set[int]:
        """Where at least one run was evaluated."""
        return {point for run in self.runs for point in run.points}

    @property
    def tasks(self) -> list[str]:
        """Evaluated tasks, in the config's order."""
        names: dict[str, None] = {}
        for run in self.runs:
            for buckets in run.points.values():
                names.update(dict.fromkeys(buckets.tasks))
        return list(names)


def read_run(path: str, test_set: Manifest | None = None) -> Run:
    """Reads a run's config and all of its buckets, on its own test set or another.

    Raises ConfigError if it has none.
    """
    directory = RunDirectory(path)
    config = directory.read_config()
    folder = directory.evaluations_on(test_set.fingerprint) if test_set else directory.path / "evaluations"
    points = {}
    identity = read_identity(directory)

    for file in sorted(folder.glob("*.parquet")):
        buckets = read_buckets(file)
        if buckets.run not in (None, identity):
            raise ConfigError(f"{file}: is an evaluation of another run (its id is {buckets.run!r}); remove it")
        reached = [parse_count(text) for text in buckets.milestones] or [buckets.samples]
        points.update(dict.fromkeys(reached, buckets))

    if not points and test_set:
        raise ConfigError(
            f"{path}: not evaluated on {test_set.uri}; do that first: adatt evaluate {path} --data {test_set.uri}"
        )
    if not points:
        raise ConfigError(
            f"{path}: no evaluation to compare (no evaluations/*.parquet); train it to a milestone "
            "first, or compare what evaluate.next_window has measured with --windows"
        )

    same_but_seed = _identity(directory, config)
    return Run(str(directory.path), config.model.head, config.run.seed, same_but_seed, points)


def _identity(directory: RunDirectory, config: Config) -> str:
    return head_identity(config) + load_manifest(directory.manifests["train"]).fingerprint


def head_identity(config: Config) -> str:
    """Equal for configs of one head that differ in the seed, or in what does not touch training."""
    values = plain(config)
    for place in SAME_HEAD:
        section, _, key = place.partition(".")
        if key.startswith("*."):
            for entry in values[section]:
                entry.pop(key.removeprefix("*."), None)
        elif key:
            values.get(section, {}).pop(key, None)
        else:
            values.pop(section, None)

    return json.dumps(values, sort_keys=True)


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Trainings of one head together, by seed; groups in the order of their first runs."""
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        group = found.setdefault(run.identity, {})
        if run.seed in group:
            twice = f"{group[run.seed].path} and {run.path} have the same config and seed {run.seed}"
            raise ConfigError(f"{twice}: one training, not two; leave one of them out")

        group[run.seed] = run

    groups: list[Group] = []
    for group in found.values():
        by_seed = [group[seed] for seed in sorted(group)]
        groups.append(Group(tuple(by_seed)))

    return groups
