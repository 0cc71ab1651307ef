"""Weights of the tasks from their losses alone: learned beside the model (uncertainty, IMTL-L) or from the past (DWA).

Shapes: T tasks.
"""

from collections.abc import Sequence

import torch


def uncertainty(
    losses_T: torch.Tensor,
    s_T: torch.Tensor,
    is_binary_T: torch.Tensor,
    is_active_T: torch.Tensor,
) -> torch.Tensor:
    """The loss of all tasks, to be minimised over s too: Kendall, Gal and Cipolla, CVPR 2018, equations 7 and 10.

        binary: e^(-s_t) L_t + s_t / 2      regression: ½ e^(-s_t) L_t + s_t / 2      s = ln σ², 0 at the start

    The total may be negative. A task that is not active adds nothing and gives its s a gradient of 0. A scalar of the
    dtype given.

    Elsewhere: TorchJD, LibMTL and the Nash-MTL authors take the formula for regression for all tasks.
    """
    scale_T = torch.where(is_binary_T, 1.0, 0.5)
    return _sum_of_active(is_active_T, losses_T, scale_T * (-s_T).exp(), s_T / 2)


def imtl_l(losses_T: torch.Tensor, s_T: torch.Tensor, is_active_T: torch.Tensor) -> torch.Tensor:
    """The loss of all tasks, to be minimised over s too: Liu et al., ICLR 2021.

        Σ e^(s_t) L_t - s_t      s = 0 at the start; at the minimum every e^(s_t) L_t is 1

    The total may be negative. A task that is not active adds nothing and gives its s a gradient of 0. A scalar of the
    dtype given.
    """
    return _sum_of_active(is_active_T, losses_T, s_T.exp(), -s_T)


def _sum_of_active(
    is_active_T: torch.Tensor, losses_T: torch.Tensor, weights_T: torch.Tensor, penalties_T: torch.Tensor
) -> torch.Tensor:
    # The loss of a task without labels may be 0 / 0, and NaN · 0 is NaN in the gradient too.
    losses_T = torch.where(is_active_T, losses_T, 0)
    return torch.where(is_active_T, weights_T * losses_T + penalties_T, 0).sum()


def dwa(windows: Sequence[torch.Tensor], temperature: float = 2.0) -> torch.Tensor:
    """Weights by how slowly each loss falls: Liu, Johns and Davison, CVPR 2019, equation 7.

        w_t = T · softmax(r_t / temperature),   r_t = mean loss of the last window / mean loss of the one before

    windows: mean losses_T of each window, the latest last; only the last two count, and all weights are 1 before there
    are two (there must be one). A task without a loss in one of them (NaN, or 0 in the first) has weight 1; T is the
    number of the others. weights_T: float64.

    A window is an epoch in the paper; 25 batches in the Nash-MTL authors' copy, which also takes the mean over tasks.
    """
    before_T, last_T = windows[-2:] if len(windows) > 1 else (windows[-1], windows[-1])
    rates_T = last_T.double() / before_T.double()

    is_known_T = rates_T.isfinite()
    weights_T = torch.ones_like(rates_T)
    weights_T[is_known_T] = is_known_T.sum() * (rates_T[is_known_T] / temperature).softmax(dim=0)
    return weights_T
