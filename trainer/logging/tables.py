"""Tables for people: the plan, an evaluation, the result of a run."""

from typing import Any

from rich.table import Table

from data.counts import count_heading
from trainer.evaluation.auc import margin
from trainer.sharding.plan import Placement

Record = dict[str, Any]
MOST_VALUES_SHOWN = 20
"""Of a column of `evaluate.by`, in a terminal."""


def plan_table(placements: list[Placement]) -> Table:
    """Where each embedding table lives."""
    table = Table(title="embedding tables")
    for name in ("table", "rows", "dim", "sharding", "ranks", "MiB"):
        table.add_column(name, justify="left" if name in ("table", "sharding") else "right")
    for entry in placements:
        sharding = f"{entry.sharding} ({entry.note})" if entry.note else entry.sharding
        mebibytes = f"{entry.bytes / 2**20:,.1f}"
        table.add_row(entry.table, f"{entry.rows:,}", str(entry.dim), sharding, _ranges(entry.ranks), mebibytes)
    return table


def evaluation_table(records: list[Record]) -> Table:
    """Every metric of one evaluation, a task a row."""
    samples, milestone = records[0]["samples"], records[0]["milestone"]
    heading, exact = count_heading(samples, milestone), f"{samples:,}"
    table = Table(title=f"evaluation at {heading} samples{f' ({exact})' * (heading != exact)}")
    names = {"ne": "NE", "oracle_ne": "oracle NE", "auc": "AUC", "log_loss": "log loss", "calibration": "calibration"}
    names |= {"mse": "MSE", "oracle_mse": "oracle MSE", "nmse": "normalised MSE"}
    shown = {key: title for key, title in names.items() if any(record.get(key) is not None for record in records)}
    table.add_column("task")
    table.add_column("examples", justify="right")
    for title in shown.values():
        table.add_column(title, justify="right")
    for record in records:
        margins = {"auc": margin(record.get("auc_error"))}
        cells = [number_cell(record.get(key)) + margins.get(key, "") for key in shown]
        table.add_row(record["task"], f"{record['examples']:,}", *cells)
    return table


def by_table(column: str, records: list[Record], whole: str) -> Table:
    """NE (MSE for regression) of each task for every value of a column, or for those with most examples.

    `whole` says where all of them are.
    """
    of_value: dict[Any, list[Record]] = {}
    for record in records:
        of_value.setdefault(record["value"], []).append(record)
    examples = {value: max(record["examples"] for record in found) for value, found in of_value.items()}
    largest = sorted(of_value, key=lambda value: -examples[value])[:MOST_VALUES_SHOWN]
    left_out = len(of_value) - len(largest)
    caption = f"{left_out:,} values with fewer examples are left out: {whole} has all {len(of_value):,}"
    table = Table(
        title=f"by {column}: NE of binary tasks, MSE of regression tasks", caption=caption if left_out else None
    )
    for name in (column, "examples", *dict.fromkeys(record["task"] for record in records)):
        table.add_column(name, justify="right")
    for value in largest if left_out else of_value:
        metrics = (record["ne"] if record["kind"] == "binary" else record["mse"] for record in of_value[value])
        table.add_row("–" if value is None else str(value), f"{examples[value]:,}", *map(number_cell, metrics))
    return table


def result_table(records: list[Record]) -> Table:
    """NE (MSE for regression) of each task at each evaluation, and the best reachable value where it is known."""
    records = [record for record in records if record["by"] is None]
    table = Table(title="result: NE of binary tasks, MSE of regression tasks (lower is better)")
    table.add_column("task")
    table.add_column("metric")
    points = list(dict.fromkeys((record["samples"], record["milestone"]) for record in records))
    for samples, milestone in points:
        table.add_column(count_heading(samples, milestone), justify="right")
    value = {(record["task"], record["samples"]): record for record in records}
    with_oracle = any(_main(record, "oracle_") is not None for record in records)
    if with_oracle:
        table.add_column("oracle", justify="right")
    for task in dict.fromkeys(record["task"] for record in records):
        row = [value.get((task, samples)) for samples, _ in points]
        last = next(record for record in reversed(row) if record is not None)
        cells = [number_cell(_main(record)) if record else "" for record in row]
        table.add_row(
            task,
            "NE" if last["kind"] == "binary" else "MSE",
            *cells,
            *([number_cell(_main(last, "oracle_"))] * with_oracle),
        )
    return table


def _main(record: Record, prefix: str = "") -> float | None:
    value = record.get(prefix + ("ne" if record["kind"] == "binary" else "mse"))
    return None if value is None else float(value)


def number_cell(value: float | None) -> str:
    """A metric to four places, – where it is unknown."""
    return "–" if value is None else f"{value:.4f}"


def _ranges(ranks: tuple[int, ...]) -> str:
    if len(ranks) > 2 and ranks == tuple(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}–{ranks[-1]}"
    return ", ".join(map(str, ranks))
