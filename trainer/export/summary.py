"""What an export holds, as a table for people."""

from rich.table import Table

from trainer.export.delta import DeltaManifest
from trainer.export.folder import ExportManifest
from trainer.export.tables import TABLE_FORMATS


def summary_table(manifest: ExportManifest) -> Table:
    """Bytes of the embedding tables by format; for quantised ones also each task's metric before and after."""
    title = f"exported at {manifest.samples:,} samples with {manifest.tables} tables"
    grid = Table(title=title)
    grid.add_column("table")
    for name in TABLE_FORMATS:
        grid.add_column(f"{name}, MiB", justify="right")
    totals = dict.fromkeys(TABLE_FORMATS, 0)
    for table, sizes in manifest.table_bytes.items():
        grid.add_row(table, *(f"{sizes[name] / 2**20:,.2f}" for name in TABLE_FORMATS))
        totals = {name: totals[name] + sizes[name] for name in TABLE_FORMATS}
    grid.add_row("all", *(f"{totals[name] / 2**20:,.2f}" for name in TABLE_FORMATS))
    return grid


def delta_table(delta: DeltaManifest) -> Table:
    """Rows that changed, by table."""
    title = f"from {delta.base_samples:,} to {delta.becomes.samples:,} samples with {delta.becomes.tables} tables"
    grid = Table(title=title)
    grid.add_column("table")
    for name in ("rows changed", "MiB"):
        grid.add_column(name, justify="right")
    for table, rows in delta.changed_rows.items():
        grid.add_row(table, f"{rows:,}", f"{delta.files[f'tables/{table}.safetensors'].bytes / 2**20:,.2f}")
    grid.add_row("all files", "", f"{sum(entry.bytes for entry in delta.files.values()) / 2**20:,.2f}")
    return grid


def change_table(manifest: ExportManifest) -> Table | None:
    """Each task's NE or MSE with the tables as trained and as served; None where they are the same."""
    if not manifest.evaluations_as_served:
        return None
    grid = Table(title="NE (MSE) on the test set")
    grid.add_column("task")
    for name in ("as trained", "as served", "change, %"):
        grid.add_column(name, justify="right")
    for task, before in manifest.evaluations.items():
        after = manifest.evaluations_as_served[task]
        change = f"{100 * (after / before - 1):+.4f}" if before else ""
        grid.add_row(task, f"{before:.6f}", f"{after:.6f}", change)
    return grid
