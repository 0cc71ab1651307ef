"""One loss per task over the rows that carry its label.

Shapes: B rows, T tasks.
"""

import torch
from torch.nn import functional


def loss_sums(
    logits_BT: torch.Tensor,
    labels_BT: torch.Tensor,
    weights_BT: torch.Tensor,
    is_binary_T: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum of each task's losses: cross entropy of the logit for binary tasks, squared error for the others.

    `weights_BT` is 0 where the label is missing. loss_T: float32.
    """
    cross_entropy_BT = functional.binary_cross_entropy_with_logits(logits_BT, labels_BT, reduction="none")
    squared_error_BT = (logits_BT - labels_BT).square()
    return (torch.where(is_binary_T, cross_entropy_BT, squared_error_BT) * weights_BT).sum(dim=0)
