"""Runs against a baseline over the windows of a log, each evaluated before it was trained (`evaluate.next_window`).

    window        dt=24    dt=25    dt=26    …
    baseline      .812     .809     .811          relative difference of each window: one pair
    run           .810     .806     .807          mean over windows, 95 % interval by Student's t

A window is a new draw of what users do that day, so that windows, not rows, are the independent units.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from trainer.analysis.compare.bootstrap import t_quantile
from trainer.errors import ConfigError
from trainer.run.directory import RunDirectory
from trainer.run.records import Evaluation, read_window_evaluations

Values = dict[str, Evaluation]
"""A task's record of each window, by the window's name."""


@dataclass(frozen=True)
class WindowsDifference:
    """A run against the baseline on one task."""

    baseline: str
    run: str
    task: str
    metric: str
    """ne or mse: lower is better."""
    windows: int
    """That both have measured on the same rows, with a model that had been trained."""
    baseline_value: float
    value: float
    """Means over the windows."""
    relative_percent: float
    """Mean of the windows' relative differences."""
    low_percent: float | None
    high_percent: float | None
    """None for a single window."""


def compare_windows(baseline: str, runs: list[str]) -> list[WindowsDifference]:
    """Differences of the runs to the baseline, by run and task; raises ConfigError if they share no window."""
    before = _read(baseline)
    differences = []
    for run in runs:
        now = _read(run)
        of_run = [_difference(baseline, run, before[task], now[task]) for task in before if task in now]
        found = [entry for entry in of_run if entry is not None]
        if not found:
            raise ConfigError(
                f"{run}: shares no window with {baseline}, evaluated on the same rows after training had begun; "
                "train both on one log with evaluate.next_window = true"
            )
        differences += found
    return differences


def _read(path: str) -> dict[str, Values]:
    """The records of each task. A new model's are left out: nothing had been trained."""
    run = RunDirectory(path)
    run.read_config()  # says so if there is no run
    tasks: dict[str, Values] = {}
    for record in read_window_evaluations(run.evaluations):
        if record.samples and record.window is not None:
            tasks.setdefault(record.task, {})[record.window] = record
    if not tasks:
        raise ConfigError(f"{path}: has no evaluation of a window; train with evaluate.next_window = true")
    return tasks


def _difference(baseline: str, run: str, before: Values, now: Values) -> WindowsDifference | None:
    pairs = list(_pairs(before, now))
    if not pairs:
        return None

    relative = [100 * (value / base - 1) for base, value in pairs]
    mean = fmean(relative)
    half = None
    if len(pairs) > 1:
        half = t_quantile(len(pairs) - 1) * stdev(relative) / len(pairs) ** 0.5

    first = next(iter(before.values()))
    return WindowsDifference(
        baseline=baseline,
        run=run,
        task=first.task,
        metric=first.main_metric,
        windows=len(pairs),
        baseline_value=fmean(base for base, _ in pairs),
        value=fmean(value for _, value in pairs),
        relative_percent=mean,
        low_percent=None if half is None else mean - half,
        high_percent=None if half is None else mean + half,
    )


def _pairs(before: Values, now: Values) -> Iterable[tuple[float, float]]:
    """The metric of both on each window that they have measured on the same rows."""
    for window in sorted(before.keys() & now.keys()):
        old, new = before[window], now[window]
        is_same = (old.kind, old.examples) == (new.kind, new.examples)
        if is_same and old.main and new.main is not None:
            yield old.main, new.main
