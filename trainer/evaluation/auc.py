"""Area under the ROC curve: exact up to a few million test rows; beyond, `trainer.evaluation.metrics` has a histogram.

Shapes: B rows of a batch, N rows of this rank, M of all ranks, T tasks, L distinct logits or bins, in ascending order.
"""

import torch

from trainer.distributed.world import World

EXACT_ROWS = 3_000_000
"""Rows of the largest test set whose logits are kept: 8 bytes a row and task, divided among the ranks."""


def area_under_curve(weights_2L: torch.Tensor) -> tuple[float | None, float | None]:
    """AUC from the weight of negatives, and of positives, at each place; the share of pairs that lie at one place.

    Pairs at one place count one half, as the area under the curve has it. None, None without positives or negatives.
    """
    negative_L, positive_L = weights_2L
    pairs = float(negative_L.sum() * positive_L.sum())
    if pairs == 0:
        return None, None
    tied = float((negative_L * positive_L).sum())
    below_L = negative_L.cumsum(0) - negative_L
    return (float((below_L * positive_L).sum()) + tied / 2) / pairs, tied / pairs


def margin(error: float | None) -> str:
    """The bound on an AUC's error as it follows a figure with four decimals; nothing where that would not show."""
    return f" ± {error:.4f}" if error is not None and error >= 0.00005 else ""


class ExactAuc:
    """Keeps the logits, labels and weights of this rank's rows, of the binary tasks."""

    def __init__(self, is_binary_T: torch.Tensor, rows: int) -> None:
        """`rows` must be the same on all ranks: a rank's share of every batch, padding included."""
        self._tasks = is_binary_T.nonzero()[:, 0]
        self._logits_TN = torch.zeros(len(self._tasks), rows, device=is_binary_T.device)
        self._weights_TN = torch.zeros_like(self._logits_TN)
        """Below 0 for negatives; 0 for rows that do not count."""
        self._held = 0

    def update(self, logits_BT: torch.Tensor, labels_BT: torch.Tensor, weights_BT: torch.Tensor) -> None:
        """Adds rows; asynchronous."""
        place = slice(self._held, self._held + len(logits_BT))
        signed_BT = torch.where(labels_BT > 0.5, weights_BT, -weights_BT)
        self._logits_TN[:, place] = logits_BT[:, self._tasks].t()
        self._weights_TN[:, place] = signed_BT[:, self._tasks].t()
        self._held = place.stop

    def compute(self, world: World) -> dict[int, float | None]:
        """AUC over the rows of all ranks by the number of the task, tied logits counting one half.

        Collective: call on all ranks.
        """
        group_N = torch.zeros_like(self._logits_TN[0], dtype=torch.int64) if len(self._tasks) else torch.zeros(0)
        return {task: aucs[0] for task, aucs in self.compute_by(world, group_N, 1).items()}

    def compute_by(self, world: World, group_N: torch.Tensor, groups: int) -> dict[int, list[float | None]]:
        """AUC within each of so many groups of rows, as `compute` over all rows.

        group_N: int64, of the rows in the order in which they were added. Collective: call on all ranks.
        """
        group_M = world.concatenate(group_N)
        return {task: self._compute(world, place, group_M, groups) for place, task in enumerate(self._tasks.tolist())}

    def _compute(self, world: World, place: int, group_M: torch.Tensor, groups: int) -> list[float | None]:
        weight_M = world.concatenate(self._weights_TN[place])
        logit_M = world.concatenate(self._logits_TN[place])
        counts_M = weight_M != 0
        logits, order = logit_M[counts_M].sort(stable=True)
        weights, group = weight_M[counts_M][order], group_M[counts_M][order]
        group, order = group.sort(stable=True)  # logits still ascend within each group
        parts = torch.bincount(group, minlength=groups).tolist()
        pairs = zip(logits[order].split(parts), weights[order].split(parts), strict=True)
        return [_area(logits_of_group, weights_of_group) for logits_of_group, weights_of_group in pairs]


def _area(logits: torch.Tensor, weights: torch.Tensor) -> float | None:
    """AUC of rows in ascending order of their logit; weights below 0 are those of negatives."""
    distinct_L, place = logits.unique_consecutive(return_inverse=True)
    weights_2L = torch.zeros(2, len(distinct_L), dtype=torch.float64, device=logits.device)
    weights_2L.view(-1).index_add_(0, (weights > 0).long() * len(distinct_L) + place, weights.double().abs())
    return area_under_curve(weights_2L)[0]
