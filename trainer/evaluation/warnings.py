"""What a user should know before believing the metrics of an evaluation, or the predictions of a model."""

import torch

from data.columns.decode import Columns
from data.hashing import Int64
from trainer.distributed.world import World
from trainer.run.records import Evaluation

KEYS_OF_A_WEAK_MODEL = "optimizer.dense.learning_rate, optimizer.sparse.learning_rate, data.global_batch_size"


def evaluation_warnings(records: list[Evaluation]) -> list[str]:
    """A line for each task that has no metric on the whole test set, or a bad one."""
    lines = [_warning(record) for record in records if record.by is None]
    return [line for line in lines if line]


def _warning(record: Evaluation) -> str | None:
    task = repr(record.task)
    name = "NE"
    value = record.ne

    if record.kind == "regression":
        name = "normalised MSE"
        value = record.nmse

    if record.weight == 0:
        return f"no row of the test set counts for task {task}: it has no metrics"
    if record.log_loss is None and record.mse is None:
        return f"predictions of task {task} are not finite: it has no metrics"
    if value is None:
        return f"all labels of task {task} in the test set are alike: {name} is not defined"
    if value >= 1:
        return (
            f"{name} of task {task} is {value:.4f}: one prediction for all rows would do as well. Train longer, or "
            f"look at {KEYS_OF_A_WEAK_MODEL}"
        )

    return None


def count_not_finite(columns: Columns, rows_D: Int64, world: World) -> dict[str, int]:
    """Rows that hold NaN or ±inf in a dense feature, by column; without the columns that have none.

    rows_D: int64, this rank's number of such rows of each dense feature. Collective: call on all ranks.
    """
    # Copied: the reader's threads go on counting in `rows_D`, and the sum over ranks is made in place.
    total_D = world.sum(torch.from_numpy(rows_D.copy())).tolist()
    names = [feature.column for feature in columns.features.dense]
    return {name: rows for name, rows in zip(names, total_D, strict=True) if rows}


def describe_not_finite(rows_by_column: dict[str, int], where: str) -> list[str]:
    """A line for each column, since such numbers silently count as missing. `where`: as in `of the test set`."""
    return [
        f"dense column {column!r} holds NaN or ±inf in {rows:,} rows {where}; they count as missing (0 after mean and "
        "scale): write null where that is meant"
        for column, rows in rows_by_column.items()
    ]
