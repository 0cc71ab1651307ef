"""Trials of a search and what they are judged by.

The objective is the mean, over the evaluated tasks, of the logarithm of NE (NMSE of a regression): one per cent less of
any task's counts the same. Lower is better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data.counts import parse_count
from trainer.config.load import toml_value
from trainer.run.records import Evaluation
from trainer.studies.tuning.space import Values

State = Literal["complete", "pruned", "failed"]
Metrics = dict[str, dict[str, float]]
"""By task: `{"ne": …}`, or `{"nmse": …}` of a regression."""


@dataclass(frozen=True)
class Trial:
    """One that has ended."""

    number: int
    state: State
    values: Values
    objective: float | None
    """None unless it is complete."""
    metrics: Metrics
    """At its last evaluation."""
    samples: int
    """At which that was."""
    run: str
    """Its folder."""
    reason: str = ""
    """Why it has failed."""

    def record(self) -> dict[str, Any]:
        """As JSON has it, with values as the config reads them."""
        return {
            "trial": self.number,
            "state": self.state,
            "values": {key: toml_value(value) for key, value in self.values.items()},
            "objective": self.objective,
            "metrics": self.metrics,
            "samples": self.samples,
            "run": self.run,
            "reason": self.reason,
        }


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Those with an objective by that, then the pruned ones, then those that failed."""
    states = ("complete", "pruned", "failed")

    def place(trial: Trial) -> tuple[int, float, int]:
        return states.index(trial.state), trial.objective or 0.0, trial.number

    return sorted(trials, key=place)


def metrics_by_samples(evaluations: Sequence[Evaluation], tasks: Sequence[str]) -> dict[int, Metrics]:
    """Of every evaluation of the whole validation set that has recorded all tasks; NaN for what is not defined.

    A milestone counts as what it is called, so that trials with batches of other sizes meet there.
    """
    found: dict[int, Metrics] = {}
    for record in evaluations:
        if record.by is None and record.task in tasks:
            metric = "ne" if record.kind == "binary" else "nmse"
            value = getattr(record, metric)
            samples = record.samples if record.milestone is None else parse_count(record.milestone)
            found.setdefault(samples, {})[record.task] = {metric: math.nan if value is None else value}
    return {samples: metrics for samples, metrics in sorted(found.items()) if len(metrics) == len(tasks)}


def objective_of(metrics: Metrics) -> float:
    """NaN if a metric is not defined, or has no logarithm."""
    values = [value for of_task in metrics.values() for value in of_task.values()]
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        return math.nan
    return sum(math.log(value) for value in values) / len(values)
