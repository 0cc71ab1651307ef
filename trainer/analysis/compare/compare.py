"""Which head is better: runs against a baseline, by task and milestone, from the buckets that evaluations leave behind.

`trainer.analysis.compare.bootstrap` says what an interval holds and what it speaks of.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from data.counts import count_heading, format_count, parse_count
from data.discovery.dataset import read_manifest
from data.errors import DataError
from trainer.analysis.compare.bootstrap import FEWEST_BUCKETS, Estimate, Floats, compare_losses
from trainer.analysis.compare.checks import (
    check_on_one_side,
    check_same_test_set,
    check_same_unit,
    nothing_in_common,
)
from trainer.analysis.compare.seed_groups import Group, group_runs, read_run
from trainer.errors import ConfigError
from trainer.evaluation.bucket_sums import TaskBuckets
from trainer.evaluation.metrics import MetricSums, normalized_entropy

EXAMPLES, WEIGHT, LOSS, LABEL = (MetricSums.NAMES.index(name) for name in ("examples", "weight", "loss", "label"))
"""Rows of a task's sums."""
ROUNDING_PERCENT = 5e-4
"""Smaller differences show no digit in tables of three decimals."""


@dataclass(frozen=True)
class Difference:
    """A head against the baseline, on one task at one milestone; None if a number is not defined."""

    baseline: str
    baseline_head: str
    run: str
    head: str
    task: str
    milestone: str | None
    """As the baseline's config writes it; None for the end."""
    samples: int
    """Trained by the run."""
    metric: str
    """ne or mse: lower is better."""
    baseline_value: float | None
    value: float | None
    """Means over seeds."""
    relative_percent: float | None
    low_percent: float | None
    high_percent: float | None
    standard_error_percent: float | None
    """Over seeds; None for one training on each side."""
    baseline_seeds: int
    seeds: int
    significant: bool | None
    """Whether the heads differ at 95 %, over trainings and test rows; None for one training on each side, from which
    that cannot be told."""
    unit: str | None
    """Column whose values keep test rows together in intervals (`evaluate.unit`); None: rows taken as independent."""
    buckets: int
    """How many buckets of the test set hold rows of the task; units of their own where these are few."""
    p_value: float | None = None
    """Of no difference between the heads, before any correction for the number of comparisons; None for one training
    on each side."""

    @property
    def column(self) -> str:
        """The milestone's name in tables."""
        return count_heading(self.samples, self.milestone)

    @property
    def one_sided(self) -> bool:
        """Whether the interval lies on one side of 0, whatever it speaks of."""
        low = self.low_percent
        high = self.high_percent
        if low is None or high is None or is_rounding(self.relative_percent):
            return False
        return low > 0 or high < 0

    @property
    def verdict(self) -> str:
        """What the difference says, in words; "better" is a lower NE or MSE.

        Better and worse are said of heads, which takes several seeds. Of two trained models it is lower and higher.
        """
        if self.relative_percent is None:
            return "not defined"
        if not self.one_sided:
            return "not told apart"

        lower, higher = ("lower", "higher") if self.significant is None else ("better", "worse")
        return higher if self.relative_percent > 0 else lower


def is_rounding(relative_percent: float | None) -> bool:
    """Whether a difference is no more than sums of float32 in another order make, as on other ranks."""
    return relative_percent is not None and abs(relative_percent) < ROUNDING_PERCENT


@dataclass(frozen=True)
class Comparison:
    """Every difference, by head, task and milestone in this order, and what had to be left out."""

    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]


def compare_runs(baseline: str, runs: list[str], data: str | None = None) -> Comparison:
    """Differences of the runs to the baseline: a run's folder, or several with commas between, seeds of one head.

    `data` is the test set, where it is not the runs' own: they must have been evaluated on it.
    Raises ConfigError or DataError if they cannot be compared: no runs, nothing in common, other test rows.
    """
    test_set = None if data is None else read_manifest(data)
    bases = group_runs(read_run(path, test_set) for path in _split(baseline))
    if len(bases) > 1:
        first = bases[0].name
        second = bases[1].name
        raise ConfigError(
            f"BASELINE {baseline!r}: {first} and {second} are not seeds of one head; name one of them, or runs whose "
            "configs differ in run.seed alone"
        )

    groups = group_runs(read_run(path, test_set) for entry in runs for path in _split(entry))
    check_on_one_side(bases[0], groups)
    all_runs = list(bases[0].runs)

    for group in groups:
        all_runs += group.runs

    check_same_test_set(all_runs)
    check_same_unit(all_runs, data)

    differences: list[Difference] = []
    warnings: list[str] = []

    for group in groups:
        differences += compare_groups(bases[0], group)
        warnings += _not_compared(bases[0], group)

    for entry in differences:
        if entry.relative_percent is not None and entry.low_percent is None:
            warnings.append(_too_few(entry))

    return Comparison(tuple(differences), tuple(dict.fromkeys(warnings)))


def _too_few(entry: Difference) -> str:
    held = "buckets of the test set" if entry.unit is None else f"buckets by unit {entry.unit!r}"
    return (
        f"task {entry.task}: its rows lie in {entry.buckets} {held}, or most of its loss in one; an interval takes "
        f"{FEWEST_BUCKETS} at least"
    )


def _split(entry: str) -> list[str]:
    """The folders in an argument, with commas between."""
    if os.path.isdir(entry):  # whose name may hold a comma
        return [entry]

    names = [name.strip() for name in entry.split(",")]
    if not all(names):
        raise ConfigError(
            f"{entry!r} holds an empty name; write folders of runs with commas between: runs/a-1,runs/a-2"
        )

    return names


def compare_groups(baseline: Group, group: Group) -> list[Difference]:
    """Differences at the milestones, on the tasks, that both have; raises ConfigError if there is none."""
    points = sorted(baseline.points & group.points)
    tasks = [task for task in baseline.tasks if task in group.tasks]

    if not points:
        old, new = (map(format_count, sorted(side.points)) for side in (baseline, group))
        raise nothing_in_common("milestone", baseline, group, old, new)

    if not tasks:
        raise nothing_in_common("task", baseline, group, baseline.tasks, group.tasks)

    return [_difference(baseline, group, task, point) for task in tasks for point in points]


def _difference(baseline: Group, group: Group, task: str, point: int) -> Difference:
    old = baseline.at(point, task)
    new = group.at(point, task)
    first = next(iter(old.values()))

    for found in [*old.values(), *new.values()]:
        if not _same_rows(first, found):
            raise DataError(
                f"task {task!r} of {group.name}: its kind, labels or weights are not those of {baseline.name}; compare "
                "runs with the same tasks.kind, tasks.label and data.weight"
            )

    old_value = _mean_value(old.values())
    new_value = _mean_value(new.values())
    defined = old_value is not None and new_value is not None
    estimate = compare_losses(_losses(old), _losses(new)) if defined else None
    single = len(old) == len(new) == 1
    of_baseline = next(run.points[point] for run in baseline.runs if point in run.points)
    of_group = next(run.points[point] for run in group.runs if point in run.points)
    texts = [text for text in of_baseline.milestones if parse_count(text) == point]

    return Difference(
        baseline=baseline.name,
        baseline_head=baseline.head,
        run=group.name,
        head=group.head,
        task=task,
        milestone=texts[0] if texts else None,
        samples=of_group.samples,
        metric="ne" if first.kind == "binary" else "mse",
        baseline_value=old_value,
        value=new_value,
        relative_percent=estimate.relative if estimate else None,
        low_percent=_finite(estimate.low) if estimate else None,
        high_percent=_finite(estimate.high) if estimate else None,
        standard_error_percent=estimate.standard_error if estimate else None,
        baseline_seeds=len(old),
        seeds=len(new),
        significant=_is_significant(estimate) if estimate and not single else None,
        unit=of_baseline.unit,
        buckets=int(np.count_nonzero(first.sums_6K[EXAMPLES])),
        p_value=estimate.p_value if estimate else None,
    )


def _is_significant(estimate: Estimate) -> bool | None:
    """None if there are too few rows to tell."""
    if not np.isfinite(estimate.low):
        return None
    return estimate.excludes_zero and not is_rounding(estimate.relative)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _same_rows(first: TaskBuckets, other: TaskBuckets) -> bool:
    """Whether two models were tested on the same labels with the same weights, up to the order of summation."""
    if first.kind != other.kind or first.sums_6K.shape != other.sums_6K.shape:
        return False
    return all(_close(first.sums_6K[row], other.sums_6K[row]) for row in (EXAMPLES, WEIGHT, LABEL))


def _close(first_K: Floats, other_K: Floats) -> bool:
    rounding = 1e-9 * np.abs(first_K).max()
    return np.allclose(first_K, other_K, rtol=0, atol=rounding)


def _losses(tasks: Mapping[int, TaskBuckets]) -> dict[int, Floats]:
    return {seed: task.sums_6K[LOSS] for seed, task in tasks.items()}


def _mean_value(tasks: Iterable[TaskBuckets]) -> float | None:
    """NE or MSE, the mean over trainings; None if it is not defined."""
    values = [metric_value(task.kind, task.sums_6K) for task in tasks]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def metric_value(kind: str, sums_6K: Floats) -> float | None:
    """NE of a binary task, MSE of a regression task; None if it is not defined."""
    weight = float(sums_6K[WEIGHT].sum())
    loss = float(sums_6K[LOSS].sum())
    label = float(sums_6K[LABEL].sum())
    if weight == 0 or not np.isfinite(loss):
        return None

    mean_loss = loss / weight
    return normalized_entropy(mean_loss, label / weight) if kind == "binary" else mean_loss


def _not_compared(baseline: Group, group: Group) -> list[str]:
    """A line for each task and milestone that one of them lacks, or one seed of a group."""
    lines = []
    for only, other in ((baseline, group), (group, baseline)):
        tasks = [f"task {task}" for task in only.tasks if task not in other.tasks]
        points = [f"milestone {format_count(point)}" for point in sorted(only.points - other.points)]
        lines += [f"{what} is not compared: {only.name} has it, {other.name} has not" for what in tasks + points]
        for run in only.runs:
            missing = sorted((only.points & other.points) - run.points.keys())
            lines += [f"{run.path} lacks milestone {format_count(point)}; compared without it" for point in missing]

    return lines
