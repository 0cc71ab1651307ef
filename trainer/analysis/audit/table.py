"""The accounts of an audit as a table."""

from typing import Any

from rich.table import Table

Record = dict[str, Any]


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
        "bad_value": "skipped: bad value",
        "lost": "in a gap between starts",
        "unexplained": "not explained",
    }
    for record in epochs:
        first = record["first_epoch"]
        last = record["last_epoch"]
        epoch = str(first) if first == last else f"{first}–{last}"
        counts = [f"{record[key]:,}" for key in ("rows", "trained_once", "trained_more", "never")]

        present = [key for key in reasons if record[key]]
        rows = [f"{record[key]:,}" for key in present]
        why = [reasons[key] for key in present]
        table.add_row(epoch, *counts, "\n".join(rows), "\n".join(why), _trace_text(record))

    return table


def _trace_text(record: Record) -> str:
    if record["traced"] is not None:
        return f"{record['traced']:,} rows"

    not_begun = record["not_reached"] + record["beyond_end"] + record["incomplete_batch"]
    return "no trace" if not_begun < record["rows"] else "–"
