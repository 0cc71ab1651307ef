"""Area under the ROC curve: exact for test sets of a few million rows; beyond, `trainer.metrics` has a histogram.

Shapes: B rows of a batch, N rows of this rank, T tasks, L distinct logits or bins, in ascending order.
"""

import torch

from trainer.world import World

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
        return {task: self._compute(world, place) for place, task in enumerate(self._tasks.tolist())}

    def _compute(self, world: World, place: int) -> float | None:
        weights = world.concatenate(self._weights_TN[place])
        logits, order = world.concatenate(self._logits_TN[place])[weights != 0].sort()
        weights = weights[weights != 0][order].double()
        distinct_L, inverse = logits.unique_consecutive(return_inverse=True)
        weights_2L = torch.zeros(2, len(distinct_L), dtype=torch.float64, device=logits.device)
        weights_2L.view(-1).index_add_(0, (weights > 0).long() * len(distinct_L) + inverse, weights.abs())
        return area_under_curve(weights_2L)[0]
