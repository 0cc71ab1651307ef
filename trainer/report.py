"""Tables for people: the plan, an evaluation, the result of a run."""

from typing import Any

from rich.table import Table

from data.counts import count_heading
from data.importers.kuairand import ImportSummary
from data.synth import SynthSummary
from trainer.auc import margin
from trainer.compare_table import Grid
from trainer.sharding import Placement

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


def bench_table(result: Record) -> Table:
    """The figures of `adatt bench train`."""
    table = Table(title=f"training on {result['world_size']} ranks, {result['threads']} threads each")
    table.add_column("figure")
    table.add_column("value", justify="right")
    rows = {
        "samples/s": f"{result['samples_per_second']:,.0f}",
        "step": f"{result['step_seconds'] * 1e3:,.1f} ms",
        "waiting for data": f"{result['data_wait_fraction']:.1%}",
        "head, forward + backward": f"{result['head_flops_per_sample'] / 1e6:,.2f} MFLOP/sample",
        "matrix-product rate per rank": f"{result['matmul_flops_per_second'] / 1e9:,.1f} GFLOP/s",
        "bound: head at that rate": f"{result['bound_samples_per_second']:,.0f} samples/s",
        "reached of the bound": f"{result['fraction_of_bound']:.1%}",
        "checkpoint": f"{result['checkpoint_bytes'] / 2**20:,.0f} MiB in {result['checkpoint_seconds']:,.2f} s",
        "  training waits for it": f"{result['checkpoint_stall_seconds'] * 1e3:,.1f} ms",
        "  limit: a plain copy": f"{result['checkpoint_copy_seconds'] * 1e3:,.1f} ms",
        "  slower steps while it is written": f"{result['checkpoint_slowdown_seconds'] * 1e3:,.1f} ms in all",
        "evaluation": f"{result['evaluation_samples_per_second']:,.0f} samples/s",
        "  limit: forward pass alone": f"{result['forward_samples_per_second']:,.0f} samples/s",
        "peak memory per process": f"{result['peak_bytes'] / 2**20:,.0f} MiB",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def head_bench_table(results: list[Record]) -> Table:
    """The figures of `adatt bench heads`."""
    threads, rate = results[0]["threads"], results[0]["matmul_flops_per_second"]
    table = Table(title=f"heads, forward + backward; {threads} threads, products at {rate / 1e9:.0f} GFLOP/s")
    table.add_column("head")
    names = (
        "batch",
        "tasks",
        "experts per task",
        "shared",
        "in all",
        "samples/s",
        "loop",
        "speed-up",
        "of product rate",
        "loop's",
    )
    for name in (*names, "parameters", "MFLOP/sample", "MiB"):
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(
            result["head"],
            *(f"{result[key]:,}" for key in ("batch", "tasks")),
            *(str(result[key] or "–") for key in ("task_experts", "shared_experts", "experts")),
            *(f"{result[key]:,.0f}" for key in ("samples_per_second", "loop_samples_per_second")),
            f"{result['speedup']:.2f}",
            *(f"{result[key]:.1%}" for key in ("matmul_fraction", "loop_matmul_fraction")),
            f"{result['parameters']:,}",
            f"{result['flops_per_sample'] / 1e6:.2f}",
            f"{result['peak_bytes'] / 2**20:,.0f}",
        )
    return table


def audit_table(epochs: list[Record]) -> Table:
    """How often the rows were trained, and why some were not: `adatt audit`."""
    table = Table(title="rows trained in what the newest checkpoint has seen; epochs count from 0")
    for name in ("epoch", "rows", "trained once", "more than once", "never", "of which", "why", "trace"):
        table.add_column(name, justify="left" if name in ("why", "trace") else "right")
    reasons = {
        "beyond_end": "beyond train.samples",
        "not_reached": "not reached yet",
        "incomplete_batch": "do not fill a last global batch",
        "skipped_batch": "batch skipped: non-finite",
        "unreadable": "file unreadable",
        "lost": "in a gap between starts",
        "unexplained": "not explained",
    }
    for record in epochs:
        first, last, traced = record["first_epoch"], record["last_epoch"], record["traced"]
        found = {why: record[key] for key, why in reasons.items() if record[key]}
        begun = record["not_reached"] + record["beyond_end"] + record["incomplete_batch"] < record["rows"]
        no_trace = "no trace" if begun else "–"
        table.add_row(
            str(first) if first == last else f"{first}–{last}",
            *(f"{record[key]:,}" for key in ("rows", "trained_once", "trained_more", "never")),
            "\n".join(f"{rows:,}" for rows in found.values()),
            "\n".join(found),
            no_trace if traced is None else f"{traced:,} rows",
        )
    return table


def import_table(summary: ImportSummary) -> Table:
    """What an import read, dropped and wrote."""
    table = Table(title="imported")
    table.add_column("what")
    table.add_column("rows", justify="right")
    table.add_row("read", f"{summary.rows_read:,}")
    table.add_row("exact duplicates dropped", f"{summary.duplicates_dropped:,}")
    table.add_row(f"train, {_days(summary.train_days)}", f"{summary.train_rows:,}")
    table.add_row(f"test, {_days(summary.test_days)}", f"{summary.test_rows:,}")
    return table


def synth_table(summary: SynthSummary) -> Table:
    """What was drawn, and the best that a model can reach on it."""
    table = Table(title=f"{summary.train_rows:,} training and {summary.test_rows:,} test rows in {summary.files} files")
    for name in ("task", "kind", "positive rate", "oracle NE", "oracle MSE", "variance"):
        table.add_column(name, justify="left" if name in ("task", "kind") else "right")
    for task in summary.tasks:
        numbers = (task.rate, task.oracle_ne, task.oracle_mse, task.label_variance)
        table.add_row(task.name + " (auxiliary)" * task.auxiliary, task.kind, *map(_number, numbers))
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
        cells = [_number(record.get(key)) + margins.get(key, "") for key in shown]
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
        table.add_row("–" if value is None else str(value), f"{examples[value]:,}", *map(_number, metrics))
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
        cells = [_number(_main(record)) if record else "" for record in row]
        table.add_row(
            task,
            "NE" if last["kind"] == "binary" else "MSE",
            *cells,
            *([_number(_main(last, "oracle_"))] * with_oracle),
        )
    return table


def comparison_table(grid: Grid) -> Table:
    """Heads against the baseline on one task."""
    table = Table(title=grid.title)
    for name in grid.header:
        table.add_column(name, justify="left" if name in ("head", "runs") else "right")
    for row in grid.rows:
        table.add_row(*(cell.replace(" [", "\n[") for cell in row))
    return table


def _main(record: Record, prefix: str = "") -> float | None:
    value = record.get(prefix + ("ne" if record["kind"] == "binary" else "mse"))
    return None if value is None else float(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _days(days: tuple[int, ...]) -> str:
    return f"{days[0]} to {days[-1]}"


def _ranges(ranks: tuple[int, ...]) -> str:
    if len(ranks) > 2 and ranks == tuple(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}–{ranks[-1]}"
    return ", ".join(map(str, ranks))
