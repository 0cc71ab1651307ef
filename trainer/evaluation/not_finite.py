"""Rows whose dense features hold NaN or ±inf. They count as missing, which nobody asked for: so there is a warning."""

import torch

from data.columns.decode import Columns
from data.hashing import Int64
from trainer.distributed.world import World


def count_not_finite(columns: Columns, rows_D: Int64, world: World) -> dict[str, int]:
    """Such rows of all ranks, by column, where there are any. Collective: call on all ranks."""
    total_D = world.sum(torch.from_numpy(rows_D.copy())).tolist()
    names = [feature.column for feature in columns.features.dense]
    return {name: rows for name, rows in zip(names, total_D, strict=True) if rows}


def describe_not_finite(rows_by_column: dict[str, int], where: str) -> list[str]:
    """A line for each column. `where`: `of the test set`."""
    return [
        f"dense column {column!r} holds NaN or ±inf in {rows:,} rows {where}; they count as missing (0 after mean and "
        "scale): write null where that is meant"
        for column, rows in rows_by_column.items()
    ]
