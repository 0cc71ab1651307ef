"""What a model that knew the truth would score on a synthetic dataset: rates, NE and MSE of the oracle columns.

Sums over the rows of a file are added up over files in their order, so that the figures are the same for any number of
processes. Shape: T tasks; the sums of a task are (label, label², loss of the oracle).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from data.synthetic.tasks import SyntheticTask
from data.synthetic.world import Doubles


@dataclass(frozen=True)
class TaskSummary:
    """A task as it came out."""

    name: str
    kind: Literal["binary", "regression"]
    auxiliary: bool
    rate: float | None
    """Positive rate in train; None for a regression."""
    oracle_ne: float | None
    """NE of the oracle on the test set, the least a model can expect; None if test holds one class only."""
    oracle_mse: float | None
    """Likewise the MSE of a regression."""
    label_variance: float | None
    """Of a regression's label on the test set: the MSE of the best constant."""


def no_sums(tasks: tuple[SyntheticTask, ...]) -> Doubles:
    """sums_T3 of no rows."""
    return np.zeros((len(tasks), 3))


def watched(tables: Iterable[pa.Table], tasks: tuple[SyntheticTask, ...], sums_T3: Doubles) -> Iterator[pa.Table]:
    """The same tables; adds each one's sums to `sums_T3` as it passes."""
    for table in tables:
        sums_T3 += np.stack([_task_sums(table, task) for task in tasks])
        yield table


def summarise(task: SyntheticTask, train_3: Doubles, train_rows: int, test_3: Doubles, test_rows: int) -> TaskSummary:
    """Figures from the sums of each split."""
    rate = ne = mse = variance = None
    if task.kind == "binary":
        rate = float(train_3[0] / train_rows)
        ne = _normalized_entropy(test_3, test_rows)
    elif test_rows > 0:
        label_mean, square_mean, mse = (float(total) / test_rows for total in test_3)
        variance = square_mean - label_mean**2

    return TaskSummary(task.name, task.kind, task.auxiliary, rate, ne, mse, variance)


def _task_sums(table: pa.Table, task: SyntheticTask) -> Doubles:
    label_B = table[task.name].to_numpy().astype(np.float64)
    oracle_B = table[f"oracle_{task.name}"].to_numpy().astype(np.float64)
    if task.kind == "binary":
        loss_B = -np.log(np.where(label_B == 1, oracle_B, 1 - oracle_B))
    else:
        loss_B = (label_B - oracle_B) ** 2

    return np.array([label_B.sum(), (label_B**2).sum(), loss_B.sum()])


def _normalized_entropy(sums_3: Doubles, rows: int) -> float | None:
    """As `trainer.evaluation.metrics` defines it, once more, since `data` may not import the trainer."""
    positives, _, loss = (float(total) for total in sums_3)
    if not 0 < positives < rows:
        return None
    rate = positives / rows
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
    return loss / rows / entropy
