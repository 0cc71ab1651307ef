"""What is predicted from a logit, one loss per task over the rows that carry its label, and the entropy in NE.

Shapes: B rows, T tasks.
"""

import math

import torch
from torch.nn import functional


def predictions(logits_BT: torch.Tensor, is_binary_T: torch.Tensor) -> torch.Tensor:
    """A binary task's probability; a regression task's value, which is its logit."""
    return torch.where(is_binary_T, logits_BT.sigmoid(), logits_BT)


def losses(logits_BT: torch.Tensor, labels_BT: torch.Tensor, is_binary_T: torch.Tensor) -> torch.Tensor:
    """Loss of each row: cross entropy of the logit for binary tasks, squared error for the others."""
    cross_entropy_BT = functional.binary_cross_entropy_with_logits(logits_BT, labels_BT, reduction="none")
    squared_error_BT = (logits_BT - labels_BT).square()
    return torch.where(is_binary_T, cross_entropy_BT, squared_error_BT)


def loss_sums(
    logits_BT: torch.Tensor,
    labels_BT: torch.Tensor,
    weights_BT: torch.Tensor,
    is_binary_T: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum of each task's losses. `weights_BT` is 0 where the label is missing. loss_T: float32."""
    loss_BT = losses(logits_BT, labels_BT, is_binary_T)
    return (loss_BT * weights_BT).sum(dim=0)


def entropy(rate: float) -> float:
    """Entropy in nats of a binary label with this positive rate; 0 for a rate of 0 or 1.

    It is the log loss of the best constant prediction, which is the rate.
    """
    nats = 0.0
    for share in (rate, 1 - rate):
        # The limit of p ln p at p = 0 is 0.
        if share > 0:
            nats -= share * math.log(share)
    return nats
