"""The inner products of the tasks' gradients, G[s, t] = ⟨g_s, g_t⟩, and the tasks that take part.

Shapes: T tasks, A active tasks.
"""

from collections.abc import Callable

import torch

ELEMENTS_IN_CACHE = 1 << 14
"""Of each gradient, that are converted to float64 at once on a CPU."""


def inner_products(gradient_TBF: torch.Tensor) -> torch.Tensor:
    """gram_TT of gradients in any dtype: float64, in which products of float32 are exact."""
    rows_TN = gradient_TBF.flatten(1)
    gram_TT = rows_TN.new_zeros(len(rows_TN), len(rows_TN), dtype=torch.float64)
    size = ELEMENTS_IN_CACHE if rows_TN.device.type == "cpu" else rows_TN.shape[1]
    for part_TN in rows_TN.split(max(size, 1), dim=1):
        part_TN = part_TN.double()
        gram_TT.addmm_(part_TN, part_TN.T)
    return gram_TT


def of_active(
    is_active_T: torch.Tensor,
    gram_TT: torch.Tensor,
    method: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The weights that `method` gives to the active tasks from their gram_AA; 0 for the others. alpha_T: float64.

    They are NaN where a gradient is not finite: no method has an answer, and the step shows what is wrong.
    """
    gram_TT = gram_TT.double()
    alpha_T = gram_TT.new_zeros(len(gram_TT))
    gram_AA = gram_TT[is_active_T][:, is_active_T]

    if not gram_AA.isfinite().all():
        alpha_T[is_active_T] = torch.nan
    elif len(gram_AA):
        alpha_T[is_active_T] = method(gram_AA)
    return alpha_T


def norms(gram_TT: torch.Tensor) -> torch.Tensor:
    """Length of each gradient."""
    # Rounding can leave a gradient of 0 with a square below 0.
    return gram_TT.diagonal().clamp(min=0).sqrt()


def combined_norm(alpha_T: torch.Tensor, gram_TT: torch.Tensor) -> torch.Tensor:
    """Length of Σ α_t g_t."""
    return (alpha_T @ gram_TT @ alpha_T).clamp(min=0).sqrt()


def cosines(gram_TT: torch.Tensor) -> torch.Tensor:
    """Inner products of the gradients at length 1; each must be longer than 0."""
    norm_T = norms(gram_TT)
    return gram_TT / torch.outer(norm_T, norm_T)


def pair_cosines(gram_TT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(cosine_TT, is_known_TT): 0 and not known where a gradient is 0 or not finite. Asynchronous."""
    gram_TT = gram_TT.double()
    norm_T = norms(gram_TT)
    lengths_TT = torch.outer(norm_T, norm_T)
    is_known_TT = (lengths_TT > 0) & gram_TT.isfinite()
    cosine_TT = torch.where(is_known_TT, gram_TT / lengths_TT, 0)
    # Rounding can leave parallel gradients with a cosine beyond 1.
    return cosine_TT.clamp(-1, 1), is_known_TT
