"""The part of the report that holds every evaluation in numbers."""

from typing import Any
from xml.etree.ElementTree import Element

from trainer.analysis.report.html import Content, decimal, folded, table
from trainer.analysis.report.run_records import RunRecords
from trainer.evaluation.auc import margin
from trainer.run.records import Evaluation

UNDEFINED = "–"
COLUMNS = {
    "ne": "NE",
    "ne_recalibrated": "NE recalibrated",
    "oracle_ne": "best NE",
    "log_loss": "log loss",
    "auc": "AUC",
    "gauc": "GAUC",
    "mse": "MSE",
    "oracle_mse": "best MSE",
    "nmse": "normalised MSE",
    "calibration": "calibration",
}
"""Metrics of an evaluation, where some run has them; best: what the true mean of a synthetic label scores."""


def number(value: float | None) -> str:
    """A metric with four decimals."""
    return UNDEFINED if value is None else decimal(value)


def evaluation_tables(runs: list[RunRecords], *, opened: bool) -> list[Content]:
    """Every evaluation of every run, a table for each task."""
    tasks: dict[str, None] = {}
    for run in runs:
        tasks.update(dict.fromkeys(evaluation.task for evaluation in run.evaluations))
    return [folded(f"Every evaluation of {task}", _evaluation_table(runs, task), opened=opened) for task in tasks]


def _evaluation_table(runs: list[RunRecords], task: str) -> Element:
    """A row for each evaluation, by samples and then by run; metrics that no run has are left out."""
    evaluations: list[tuple[str, Evaluation]] = []
    for run in runs:
        of_task = [evaluation for evaluation in run.evaluations if evaluation.task == task]
        evaluations += [(run.name, evaluation) for evaluation in of_task]

    evaluations.sort(key=lambda pair: pair[1].samples)  # stable: runs stay in order

    def is_known(key: str) -> bool:
        return any(getattr(evaluation, key) is not None for _, evaluation in evaluations)

    columns = {key: title for key, title in COLUMNS.items() if is_known(key)}
    rows = []

    for name, evaluation in evaluations:
        metrics = [_metric(evaluation, key) for key in columns]
        rows.append([_point(evaluation), name, *metrics, f"{evaluation.examples:,}"])

    head = ["samples", "run", *columns.values(), "test examples"]
    return table("On the whole test set", head, rows, words=["run"])


def _metric(evaluation: Evaluation, key: str) -> str:
    text = number(getattr(evaluation, key))
    return text + margin(evaluation.auc_error) if key == "auc" else text


def _point(evaluation: Evaluation) -> str:
    return evaluation.milestone or f"{evaluation.samples:,}, the end"


def tables_by_value(runs: list[RunRecords]) -> list[Content]:
    """The newest evaluation of every run for each value of the columns in `evaluate.by`, a table for each task."""
    shown: dict[tuple[str, str], None] = {}
    for run in runs:
        for entry in run.by_value:
            shown[str(entry.by), entry.task] = None
    return [folded(f"{task} by {by}", _table_by_value(runs, by, task)) for by, task in shown]


def _table_by_value(runs: list[RunRecords], by: str, task: str) -> Element:
    of_runs: list[dict[Any, Evaluation]] = []
    for run in runs:
        of_task = [entry for entry in run.by_value if (entry.by, entry.task) == (by, task)]
        of_runs.append({entry.value: entry for entry in of_task})

    all_values: dict[Any, Evaluation] = {}
    for of_run in of_runs:
        all_values |= of_run

    kind = next(iter(all_values.values())).kind

    rows = []
    for value in all_values:
        entries = [of_run.get(value) for of_run in of_runs]
        examples = max(entry.examples for entry in entries if entry)
        metrics = [number(entry.main) if entry else UNDEFINED for entry in entries]
        name = UNDEFINED if value is None else str(value)
        rows.append([name, f"{examples:,}", *metrics])

    metric = "NE" if kind == "binary" else "MSE"
    head = [by, "test examples", *(run.name for run in runs)]
    return table(f"{metric} at each run's newest evaluation", head, rows)
