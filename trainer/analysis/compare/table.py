"""A comparison as tables of text, heads as rows and milestones as columns, as in the AdaTT paper's Tables 1 and 2."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from trainer.analysis.compare.bootstrap import RESAMPLES
from trainer.analysis.compare.compare import Difference
from trainer.analysis.compare.windows import WindowsDifference
from trainer.evaluation.row_buckets import BUCKETS

UNDEFINED = "–"


@dataclass(frozen=True)
class Grid:
    """The table of one task."""

    task: str
    title: str
    header: list[str]
    rows: list[list[str]]


def comparison_grids(differences: Sequence[Difference]) -> list[Grid]:
    """A table for each task; the first row holds the baseline's own values."""
    tasks = dict.fromkeys(entry.task for entry in differences)
    return [_grid(task, [entry for entry in differences if entry.task == task]) for task in tasks]


def _grid(task: str, differences: list[Difference]) -> Grid:
    first = differences[0]
    by_samples = sorted(differences, key=lambda entry: entry.samples)
    columns = list(dict.fromkeys(entry.column for entry in by_samples))

    base = {entry.column: _number(entry.baseline_value) for entry in differences}
    baseline = [base[column] for column in columns]
    rows = [[first.baseline_head, folder_names(first.baseline), *baseline]]

    for run in dict.fromkeys(entry.run for entry in differences):
        of_run = [entry for entry in differences if entry.run == run]
        cells = {entry.column: _cell(entry) for entry in of_run}
        values = [cells.get(column, UNDEFINED) for column in columns]
        rows.append([of_run[0].head, folder_names(run), *values])

    units = " and ".join(dict.fromkeys(unit_text(entry.unit) for entry in differences))
    title = f"{task}: {first.metric.upper()} of the baseline; of the others the difference to it in % ({units})"
    return Grid(task, title, ["head", "runs", *columns], rows)


def windows_table(differences: Sequence[WindowsDifference]) -> Table:
    """A row for each run and task."""
    table = Table(title="over windows, each before it was trained: relative difference to the baseline in %")
    for name in ("task", "run"):
        table.add_column(name)
    for name in ("windows", "baseline", "value", "difference", "95 % interval"):
        table.add_column(name, justify="right")

    for entry in differences:
        interval = "one window"
        if entry.low_percent is not None:
            interval = f"[{entry.low_percent:+.3f}, {entry.high_percent:+.3f}]"
        values = [_number(entry.baseline_value), _number(entry.value), f"{entry.relative_percent:+.3f}"]
        name = f"{entry.task} ({entry.metric.upper()})"
        table.add_row(name, folder_names(entry.run), str(entry.windows), *values, interval)

    return table


def folder_names(run: str) -> str:
    """runs/a-1,runs/a-2 → a-1, a-2."""
    return ", ".join(Path(path).name for path in run.split(","))


def unit_text(unit: str | None) -> str:
    """What intervals take as independent, in a few words."""
    return "rows taken as independent" if unit is None else f"intervals by {unit}"


def _number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.4f}"


def _cell(entry: Difference) -> str:
    """-0.512 ± 0.031 [-0.640, -0.384] better"""
    if entry.relative_percent is None:
        return UNDEFINED

    error = "" if entry.standard_error_percent is None else f" ± {entry.standard_error_percent:.3f}"
    known = entry.low_percent is not None
    interval = f" [{entry.low_percent:+z.3f}, {entry.high_percent:+z.3f}]" if known else " [too few rows]"
    mark = f" {entry.verdict}" if entry.one_sided else ""

    return f"{entry.relative_percent:+z.3f}{error}{interval}{mark}"


def _unit_note(entry: Difference) -> str:
    if entry.unit is None:
        return (
            "Rows taken as independent: where rows of one user are not, intervals are too narrow; name the column with "
            "evaluate.unit, or adatt evaluate --unit."
        )
    return f"Intervals by {entry.unit}: rows that share its value are drawn together, in up to {BUCKETS:,} buckets."


def comparison_notes(differences: Sequence[Difference]) -> list[str]:
    """How to read what the tables hold, a paragraph each."""
    notes = [
        f"Lower is better. In brackets: 95 % intervals, from {RESAMPLES:,} paired resamples of the test rows' buckets; "
        "of differences that are truly 0, one in twenty lies outside its own.",
        *dict.fromkeys(_unit_note(entry) for entry in differences),
    ]
    if any(entry.significant is not None for entry in differences):
        notes.append(
            "better, worse: the heads differ at 95 %. ± is the standard error over seeds; the interval is for the mean "
            "over trainings and such test rows. A side with one seed is taken to spread like the other."
        )

    if any(entry.significant is None and entry.low_percent is not None for entry in differences):
        notes.append(
            "lower, higher: these two trained models differ on such test rows. That says nothing of the heads, since "
            "two trainings of one head differ too: train more seeds of both for that."
        )

    return notes


def comparison_table(grid: Grid) -> Table:
    """Heads against the baseline on one task."""
    table = Table(title=grid.title)
    for name in grid.header:
        table.add_column(name, justify="left" if name in ("head", "runs") else "right")
    for row in grid.rows:
        table.add_row(*(cell.replace(" [", "\n[") for cell in row))
    return table
