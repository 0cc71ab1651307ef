"""Metrics of a window that has few rows, or none."""

import torch

from trainer.logging.window import total_loss


def test_no_loss_if_no_row_has_counted() -> None:
    weight_T = torch.ones(2, dtype=torch.float64)
    sums_4T = torch.tensor([[0.0, 3.0], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert total_loss(sums_4T, weight_T) == 1.5
    assert total_loss(torch.zeros(4, 2), weight_T) is None
