"""Area under the ROC curve: exact up to a few million test rows; beyond, `trainer.evaluation.metrics` has a histogram.

Shapes: B rows of a batch, N rows of this rank, M rows of all ranks, T tasks, D binary tasks, and L distinct logits or
histogram bins in ascending order.
"""

import torch

from models.ranker import StepOutput
from trainer.distributed.world import World
from trainer.evaluation.accumulator import Accumulator, TaskValues

EXACT_ROWS = 3_000_000
"""Rows of the largest test set whose logits are kept: 8 bytes a row and task, divided among the ranks."""


def area_under_curve(weights_2L: torch.Tensor) -> tuple[float | None, float | None]:
    """AUC from the weight of the negatives, and of the positives, at each logit; and the share of tied pairs.

    A (positive, negative) pair at one logit is tied and counts one half, as in the area under the curve. Returns
    (None, None) if there are no positives or no negatives.
    """
    negative_L, positive_L = weights_2L
    pairs = float(negative_L.sum() * positive_L.sum())
    if pairs == 0:
        return None, None

    # A positive wins against every negative whose logit is lower.
    lower_negatives_L = negative_L.cumsum(0) - negative_L
    won = float((lower_negatives_L * positive_L).sum())
    tied = float((negative_L * positive_L).sum())

    return (won + tied / 2) / pairs, tied / pairs


def margin(error: float | None) -> str:
    """The bound on an AUC's error, as it follows a figure with four decimals; empty if it would not show there."""
    return f" ± {error:.4f}" if error is not None and error >= 0.00005 else ""


def exact_values(auc: float | None) -> TaskValues:
    """What stands in a record in place of the histogram's AUC; None: not defined."""
    return {"auc": auc, "auc_error": None if auc is None else 0.0}


def signed_weights(step: StepOutput) -> torch.Tensor:
    """Weights (B, T), below 0 for negatives: so the label takes no further memory."""
    return torch.where(step.labels_BT > 0.5, step.weights_BT, -step.weights_BT)


class ExactAuc(Accumulator[list[TaskValues]]):
    """AUC of the binary tasks from the logits, labels and weights of all rows, which are kept on the device."""

    def __init__(self, is_binary_T: torch.Tensor, num_rows: int) -> None:
        """`num_rows`: this rank's share of all batches, padding included. It must be the same on all ranks."""
        self._num_tasks = len(is_binary_T)
        self._tasks_D = is_binary_T.nonzero()[:, 0]
        """Indices of the binary tasks."""
        self.num_rows = num_rows
        shape = (len(self._tasks_D), num_rows)
        self._logits_DN = torch.zeros(shape, device=is_binary_T.device)
        self._weights_DN = torch.zeros_like(self._logits_DN)
        """Below 0 for negatives; 0 for rows that do not count."""
        self._rows_so_far = 0

    def update(self, step: StepOutput) -> None:
        """Keeps the rows of a step. Asynchronous."""
        stop = self._rows_so_far + len(step.logits_BT)
        rows = slice(self._rows_so_far, stop)
        self._rows_so_far = stop

        logits_BD = step.logits_BT[:, self._tasks_D]
        weights_BD = signed_weights(step)[:, self._tasks_D]
        self._logits_DN[:, rows] = logits_BD.t()
        self._weights_DN[:, rows] = weights_BD.t()

    def compute(self, world: World) -> list[TaskValues]:
        """`auc` of each binary task, tied logits counting one half. Collective: call on all ranks."""
        num_rows = self.num_rows if len(self._tasks_D) else 0
        one_group_N = torch.zeros(num_rows, dtype=torch.int64, device=self._logits_DN.device)
        aucs = self.compute_by(world, one_group_N, 1)

        values: list[TaskValues] = [{} for _ in range(self._num_tasks)]
        for task, (auc,) in aucs.items():
            values[task] = exact_values(auc)

        return values

    def compute_by(self, world: World, group_N: torch.Tensor, num_groups: int) -> dict[int, list[float | None]]:
        """AUC within each group of rows, by the index of the task.

        group_N: int64, the group of each row in the order in which the rows were added. Collective: call on all ranks.
        """
        # All ranks have equally many rows and tasks, so that they gather tensors of one shape, equally often.
        group_M = world.concatenate(group_N)

        aucs = {}
        for index, task in enumerate(self._tasks_D.tolist()):
            # One task after the other: the rows of all ranks are on every rank only for the task at hand.
            weights_M = world.concatenate(self._weights_DN[index])
            logits_M = world.concatenate(self._logits_DN[index])

            aucs[task] = _areas(logits_M, weights_M, group_M, num_groups)

        return aucs


def _areas(logits: torch.Tensor, weights: torch.Tensor, groups: torch.Tensor, num_groups: int) -> list[float | None]:
    """AUC within each group of rows, without those of weight 0."""
    counts = weights != 0
    weights = weights[counts]
    groups = groups[counts]
    logits, order = logits[counts].sort(stable=True)
    weights = weights[order]
    groups = groups[order]

    # A stable sort by group leaves the logits in ascending order within each group.
    groups, order = groups.sort(stable=True)
    sizes = torch.bincount(groups, minlength=num_groups).tolist()
    logits_of_groups = logits[order].split(sizes)
    weights_of_groups = weights[order].split(sizes)

    return [_area(*rows) for rows in zip(logits_of_groups, weights_of_groups, strict=True)]


def _area(logits: torch.Tensor, weights: torch.Tensor) -> float | None:
    """AUC of rows in ascending order of their logits, the weights of negatives being below 0; None if not defined.

    Predictions that are not finite have no AUC, as they have no other metric (`trainer.evaluation.metrics`).
    """
    if not logits.isfinite().all():
        return None

    distinct_L, index = logits.unique_consecutive(return_inverse=True)
    num_distinct = len(distinct_L)
    weights_2L = torch.zeros(2, num_distinct, dtype=torch.float64, device=logits.device)

    # One scatter into the flat tensor fills both rows: that of the positives begins L places later.
    is_positive = (weights > 0).long()
    place = is_positive * num_distinct + index
    flat_weights = weights_2L.view(-1)
    flat_weights.index_add_(0, place, weights.double().abs())

    return area_under_curve(weights_2L)[0]
