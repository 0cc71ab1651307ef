"""The best metrics that any model can reach on a synthetic test set.

A synthetic dataset stores the true conditional mean of label `x` in column `oracle_x` (`data.synthetic`). What that
mean scores as a prediction, such as its NE, is the best reachable value, and is reported beside the model's own
metrics. The model never sees the column: it is read here, apart from the batches.

Shapes: R rows of a row group.
"""

import pyarrow as pa
import torch

from data.discovery.fields import types_named
from data.discovery.schema import ORACLE_PREFIX
from data.manifest import Manifest
from data.pipeline.open_files import OpenFiles
from data.pipeline.row_groups import read_row_group
from models.tasks import TaskConfig
from trainer.distributed.world import World
from trainer.evaluation.metrics import Metrics, MetricSums


def oracle_metrics(
    manifest: Manifest, tasks: tuple[TaskConfig, ...], weight: str | None, world: World
) -> dict[str, Metrics]:
    """Metrics of the true conditional means by task, for the tasks that have them.

    `weight` is the column of row weights. Each rank reads a share of the row groups. Collective: call on all ranks.
    """
    tasks = tuple(task for task in tasks if _has_oracle(manifest, task))
    num_groups = len(manifest.rows) if tasks else 0
    sums = {}

    for task in tasks:
        is_binary_1 = torch.tensor([task.binary])
        sums[task.name] = MetricSums(is_binary_1)

    def read_share() -> None:
        files = OpenFiles(manifest)
        for group in range(world.rank, num_groups, world.size):
            table = read_row_group(manifest, group, _columns(tasks, weight), files)
            _add_rows(table, tasks, weight, sums)

    # A row group that one rank cannot read ends all ranks, before they add up their sums.
    world.raise_on_all_ranks(read_share)

    metrics = {}
    for name, sums_of_task in sums.items():
        sums_of_task.add_over_ranks(world)
        metrics[name] = sums_of_task.compute()[0]

    return metrics


def _has_oracle(manifest: Manifest, task: TaskConfig) -> bool:
    """Whether all files of the dataset hold the true mean of what the task learns in all rows, as a float."""
    if task.threshold is not None or task.transform != "none" or task.where or task.weight_column:
        return False
    name = ORACLE_PREFIX + task.label
    for _, schema in manifest.schemas:
        types = types_named(schema, name)
        if len(types) != 1 or not pa.types.is_floating(types[0]):
            return False
    return True


def _columns(tasks: tuple[TaskConfig, ...], weight: str | None) -> list[str]:
    names = {weight} if weight else set()
    for task in tasks:
        names |= {task.label, ORACLE_PREFIX + task.label}
    return sorted(names)


def _add_rows(table: pa.Table, tasks: tuple[TaskConfig, ...], weight: str | None, sums: dict[str, MetricSums]) -> None:
    """Adds the rows of a row group to the sums of each task, by its name."""
    columns = {name: _as_column(table[name]) for name in table.column_names}

    for task in tasks:
        label_R1 = columns[task.label]
        oracle_R1 = columns[ORACLE_PREFIX + task.label]
        is_present_R1 = ~(label_R1.isnan() | oracle_R1.isnan())
        weight_R1 = is_present_R1 * columns[weight] if weight else is_present_R1
        weight_R1 = torch.where(label_R1 > 0.5, 1.0, task.negative_weight) * weight_R1

        # The sums want logits, from which they compute the log loss without rounding probabilities to 0 or 1.
        logit_R1 = oracle_R1.logit() if task.binary else oracle_R1
        logit_R1 = logit_R1.nan_to_num()
        label_R1 = label_R1.nan_to_num()
        sums[task.name].add(logit_R1, label_R1, weight_R1)


def _as_column(values: pa.ChunkedArray) -> torch.Tensor:
    """Values as float64 of shape (R, 1), the shape of one task; missing ones are NaN."""
    return torch.from_numpy(values.to_numpy().astype("float64"))[:, None]
