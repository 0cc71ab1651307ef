"""The part of the report that says what the runs were trained and tested on."""

from statistics import fmean

from data.manifest import Manifest
from models.tasks import TaskConfig
from trainer.analysis.report.html import Content, decimal, paragraph, table
from trainer.analysis.report.run_records import RunRecords

UNKNOWN = "–"


def data_tables(runs: list[RunRecords], tasks: list[TaskConfig]) -> list[Content]:
    """Rows, time windows and label means of each dataset; runs on the same data share a row."""
    of_data: dict[tuple[str, str], list[RunRecords]] = {}
    for use in ("train", "test"):
        for run in runs:
            if use in run.manifests:
                of_data.setdefault((use, run.manifests[use].fingerprint), []).append(run)
    if not of_data:
        return [paragraph("No record of the data yet.")]
    head = ["data", "runs", "rows", "files", "row groups", "time windows", *(task.name for task in tasks)]
    rows = [_row(use, of_runs, len(runs), tasks) for (use, _), of_runs in of_data.items()]
    caption = (
        "Under the tasks' names: mean label, which is the rate of positives of a binary task; of training data over "
        "the samples that have been logged, of test data at the newest evaluation"
    )
    return [table(caption, head, rows, words=["runs", "time windows"])]


def _row(use: str, runs: list[RunRecords], num_runs: int, tasks: list[TaskConfig]) -> list[Content]:
    manifest = runs[0].manifests[use]
    names = "all" if len(runs) == num_runs else ", ".join(run.name for run in runs)
    counts = (manifest.num_rows, len(manifest.files), len(manifest.rows))
    means = _trained_means(runs[0]) if use == "train" else _tested_means(runs[0])
    labels = (decimal(means[task.name]) if task.name in means else UNKNOWN for task in tasks)
    return [use, names, *(f"{count:,}" for count in counts), _windows(manifest), *labels]


def _windows(manifest: Manifest) -> str:
    """How many, and the first and last."""
    ordered = [name for _, name in sorted(zip(manifest.window, _names_of_groups(manifest), strict=True))]
    number = len(set(ordered))
    return ordered[0] if number == 1 else f"{number:,}: {ordered[0]} to {ordered[-1]}"


def _names_of_groups(manifest: Manifest) -> list[str]:
    names = manifest.window_names
    return [names[file] for file in manifest.file]


def _tested_means(run: RunRecords) -> dict[str, float]:
    """Of the newest evaluation, which comes last."""
    return {found.task: found.label_mean for found in run.evaluations if found.label_mean is not None}


def _trained_means(run: RunRecords) -> dict[str, float]:
    """Over the records of training, which are of equally many samples but for the last."""
    curves = {task.name: run.curve(f"label_mean/{task.name}") for task in run.config.tasks}
    return {task: fmean(value for _, value in curve) for task, curve in curves.items() if curve}
