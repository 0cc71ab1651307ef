"""What a user should know of an evaluation's metrics before believing them."""

from typing import Any

Record = dict[str, Any]
KEYS_OF_A_WEAK_MODEL = "optimizer.dense.learning_rate, optimizer.sparse.learning_rate, data.global_batch_size"


def evaluation_warnings(records: list[Record]) -> list[str]:
    """A line for each task that has no metric on the whole test set, or a bad one."""
    lines = [_warning(record) for record in records if record["by"] is None]
    return [line for line in lines if line]


def _warning(record: Record) -> str | None:
    task = repr(record["task"])
    name, value = ("NE", record["ne"]) if record["kind"] == "binary" else ("normalised MSE", record["nmse"])

    if record["weight"] == 0:
        return f"no row of the test set counts for task {task}: it has no metrics"
    if record["log_loss"] is None and record["mse"] is None:
        return f"predictions of task {task} are not finite: it has no metrics"
    if value is None:
        return f"all labels of task {task} in the test set are alike: {name} is not defined"
    if value >= 1:
        return (
            f"{name} of task {task} is {value:.4f}: one prediction for all rows would do as well. Train longer, or "
            f"look at {KEYS_OF_A_WEAK_MODEL}"
        )
    return None
