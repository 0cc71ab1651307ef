"""The part of the report that says what the runs were trained and tested on."""

from statistics import fmean

from data.manifest import Manifest
from models.tasks import TaskConfig
from trainer.analysis.report.html import Content, decimal, paragraph, table
from trainer.analysis.report.run_records import RunRecords

UNKNOWN = "–"


def data_tables(runs: list[RunRecords], tasks: list[TaskConfig]) -> list[Content]:
    """Rows, time windows and label means of each dataset; runs on the same data share a row."""
    runs_of_data: dict[tuple[str, str], list[RunRecords]] = {}
    for use in ("train", "test"):
        for run in runs:
            if use in run.manifests:
                fingerprint = run.manifests[use].fingerprint
                runs_of_data.setdefault((use, fingerprint), []).append(run)

    if not runs_of_data:
        return [paragraph("No record of the data yet.")]

    names = [task.name for task in tasks]
    rows = [_row(use, of_data, len(runs), names) for (use, _), of_data in runs_of_data.items()]
    head = ["data", "runs", "rows", "files", "row groups", "time windows", *names]
    caption = (
        "Under the tasks' names: mean label, which is the rate of positives of a binary task; of training data over "
        "the samples that have been logged, of test data at the newest evaluation"
    )

    return [table(caption, head, rows, words=["runs", "time windows"])]


def _row(use: str, runs: list[RunRecords], num_runs: int, tasks: list[str]) -> list[Content]:
    """A dataset that `runs` share, of `num_runs` in the report."""
    manifest = runs[0].manifests[use]
    names = "all"
    if len(runs) < num_runs:
        names = ", ".join(run.name for run in runs)

    counts = (manifest.num_rows, len(manifest.files), len(manifest.rows))
    sizes = [f"{count:,}" for count in counts]

    means = _trained_means(runs[0]) if use == "train" else _tested_means(runs[0])
    labels = [decimal(means[task]) if task in means else UNKNOWN for task in tasks]
    return [use, names, *sizes, _windows(manifest), *labels]


def _windows(manifest: Manifest) -> str:
    """How many, and the first and last."""
    names_of_files = manifest.window_names
    names_of_groups = [names_of_files[file] for file in manifest.file]
    pairs = sorted(zip(manifest.window, names_of_groups, strict=True))
    names = [name for _, name in pairs]

    count = len(set(names))
    if count == 1:
        return names[0]

    return f"{count:,}: {names[0]} to {names[-1]}"


def _tested_means(run: RunRecords) -> dict[str, float]:
    """Of the newest evaluation, which comes last."""
    means: dict[str, float] = {}
    for evaluation in run.evaluations:
        if evaluation.label_mean is not None:
            means[evaluation.task] = evaluation.label_mean
    return means


def _trained_means(run: RunRecords) -> dict[str, float]:
    """Over the records of training, which are of equally many samples but for the last."""
    means: dict[str, float] = {}
    for task in run.config.tasks:
        values = [value for _, value in run.curve(f"label_mean/{task.name}")]
        if values:
            means[task.name] = fmean(values)
    return means
