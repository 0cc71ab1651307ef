"""Tables for people: the sharding plan, an evaluation, the result of a run."""

from typing import Any

from rich.table import Table

from data.counts import count_heading
from trainer.evaluation.auc import margin
from trainer.run.records import Evaluation
from trainer.sharding.plan import Placement
from trainer.warm_start.weights import WHOLE_TABLE, Taken

MOST_VALUES_SHOWN = 20
"""Of a column of `evaluate.by`, in a terminal."""
MOST_TABLES_SHOWN = 10
"""Of those that a warm start takes as they are."""
EVALUATION_TITLES = {
    "ne": "NE",
    "oracle_ne": "oracle NE",
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "calibration": "calibration",
    "mse": "MSE",
    "oracle_mse": "oracle MSE",
    "nmse": "normalised MSE",
}
"""Columns of the table of an evaluation, by the keys of its records."""


def plan_table(placements: list[Placement]) -> Table:
    """Where each embedding table lives."""
    table = Table(title="embedding tables")
    for name in ("table", "rows", "dim", "type", "sharding", "ranks", "MiB"):
        table.add_column(name, justify="left" if name in ("table", "type", "sharding") else "right")

    for entry in placements:
        sharding = f"{entry.sharding} ({entry.note})" if entry.note else entry.sharding
        rows = f"{entry.rows:,}"
        dim = str(entry.dim)
        mebibytes = f"{entry.bytes / 2**20:,.1f}"
        table.add_row(entry.table, rows, dim, entry.dtype, sharding, _ranges(entry.ranks), mebibytes)

    return table


def taken_table(source: str, checkpoint: str, parts: list[Taken]) -> Table:
    """What a run begins with."""
    table = Table(title=f"taken from {source} at {int(checkpoint):,} samples")
    for name in ("part", "taken", "not taken"):
        table.add_column(name)
    whole = [part for part in parts if part.taken == WHOLE_TABLE]
    if len(whole) > MOST_TABLES_SHOWN:
        table.add_row(f"{len(whole)} tables", WHOLE_TABLE, "")
        parts = [part for part in parts if part.taken != WHOLE_TABLE]
    for part in parts:
        table.add_row(part.what, part.taken, part.note)
    return table


def evaluation_table(records: list[Evaluation]) -> Table:
    """Every metric of one evaluation, a task a row; metrics that no task has are left out."""
    samples = records[0].samples
    heading = count_heading(samples, records[0].milestone)
    exact = f"{samples:,}"
    remark = f" ({exact})" if heading != exact else ""
    table = Table(title=f"evaluation at {heading} samples{remark}")

    table.add_column("task")
    table.add_column("examples", justify="right")
    keys = [key for key in EVALUATION_TITLES if any(getattr(record, key) is not None for record in records)]

    for key in keys:
        table.add_column(EVALUATION_TITLES[key], justify="right")

    for record in records:
        cells = [_metric_cell(record, key) for key in keys]
        table.add_row(record.task, f"{record.examples:,}", *cells)

    return table


def _metric_cell(record: Evaluation, key: str) -> str:
    cell = number_cell(getattr(record, key))
    if key == "auc":
        cell += margin(record.auc_error)
    return cell


def by_table(column: str, records: list[Evaluation], whole: str) -> Table:
    """NE (MSE for regression) of each task for every value of a column, or for those with most examples.

    `whole` names the place that has all of them.
    """
    records_of_value: dict[Any, list[Evaluation]] = {}
    for record in records:
        records_of_value.setdefault(record.value, []).append(record)

    examples = {}
    for value, records_of_tasks in records_of_value.items():
        examples[value] = max(record.examples for record in records_of_tasks)

    num_values = len(records_of_value)
    shown = list(records_of_value)
    caption = None

    if num_values > MOST_VALUES_SHOWN:
        shown = sorted(shown, key=lambda value: -examples[value])[:MOST_VALUES_SHOWN]
        left_out = num_values - MOST_VALUES_SHOWN
        caption = f"{left_out:,} values with fewer examples are left out: {whole} has all {num_values:,}"

    title = f"by {column}: NE of binary tasks, MSE of regression tasks"
    table = Table(title=title, caption=caption)
    tasks = dict.fromkeys(record.task for record in records)

    for name in (column, "examples", *tasks):
        table.add_column(name, justify="right")

    for value in shown:
        name = "–" if value is None else str(value)
        cells = [number_cell(record.main) for record in records_of_value[value]]
        table.add_row(name, f"{examples[value]:,}", *cells)

    return table


def window_line(records: list[Evaluation]) -> str:
    """`dt=2022-04-26, not trained yet (4,096 rows): NE click .8123 · MSE watch_time 1.2034`."""
    metrics = " · ".join(f"{record.main_metric.upper()} {record.task} {number_cell(record.main)}" for record in records)
    rows = max(record.examples for record in records)
    return f"{records[0].window}, not trained yet ({rows:,} rows): {metrics}"


def window_table(records: list[Evaluation]) -> Table:
    """NE (MSE for regression) of each task on the newest windows, each before it was trained."""
    windows: dict[Any, list[Evaluation]] = {}
    for record in records:
        windows.setdefault(record.window, []).append(record)

    table = Table(title="each window before it was trained: NE of binary tasks, MSE of regression tasks")
    table.add_column("window")
    for name in ("samples", "examples", *dict.fromkeys(record.task for record in records)):
        table.add_column(name, justify="right")

    for name, of_window in list(windows.items())[-MOST_VALUES_SHOWN:]:
        cells = [number_cell(record.main) for record in of_window]
        examples = max(record.examples for record in of_window)
        table.add_row(name, f"{of_window[0].samples:,}", f"{examples:,}", *cells)

    return table


def result_table(records: list[Evaluation]) -> Table:
    """NE (MSE for regression) of each task at each evaluation, and the best reachable value if it is known."""
    of_whole_set = [record for record in records if record.by is None]
    table = Table(title="result: NE of binary tasks, MSE of regression tasks (lower is better)")
    table.add_column("task")
    table.add_column("metric")

    # Milestones that fall on one batch have the same samples, but a column each.
    pairs = [(record.samples, record.milestone) for record in of_whole_set]
    points = dict.fromkeys(pairs)

    for samples, milestone in points:
        table.add_column(count_heading(samples, milestone), justify="right")

    with_oracle = any(record.oracle is not None for record in of_whole_set)
    if with_oracle:
        table.add_column("oracle", justify="right")

    record_at = {(record.task, record.samples): record for record in of_whole_set}
    tasks = dict.fromkeys(record.task for record in of_whole_set)

    for task in tasks:
        row = [record_at.get((task, samples)) for samples, _ in points]
        newest = [record for record in row if record is not None][-1]

        cells = [number_cell(record.main) if record else "" for record in row]
        if with_oracle:
            cells.append(number_cell(newest.oracle))
        table.add_row(task, newest.main_metric.upper(), *cells)

    return table


def number_cell(value: float | None) -> str:
    """A metric to four places, – if it is not defined."""
    return "–" if value is None else f"{value:.4f}"


def _ranges(ranks: tuple[int, ...]) -> str:
    """`0–7` for more than two ranks without a gap, else every rank."""
    if len(ranks) > 2:
        first = ranks[0]
        last = ranks[-1]
        if ranks == tuple(range(first, last + 1)):
            return f"{first}–{last}"
    return ", ".join(map(str, ranks))
