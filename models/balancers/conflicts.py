"""Gradients of which the parts that conflict are left out: PCGrad by projection, GradDrop by sign.

Shapes: T tasks, B rows, F features of the shared representation.
"""

import torch


def pcgrad(gram_TT: torch.Tensor, order_TT: torch.Tensor) -> torch.Tensor:
    """Each gradient without its parts against the others, then their sum: Yu et al., NeurIPS 2020, algorithm 1.

        for j in the order of task i, j ≠ i:   if ⟨g_i', g_j⟩ < 0:   g_i' ← g_i' - ⟨g_i', g_j⟩ / ‖g_j‖² · g_j
        shared gradient = Σ_i g_i'

    order_TT: row i is the order in which task i meets the tasks, itself among them; `random_orders` draws it.
    alpha_T: float64.

    Elsewhere: the authors' code throws its shuffled losses away, so that the order is always that of the tasks; it and
    the Nash-MTL authors' copy project on the task's own gradient too, which earlier projections may have turned away.
    """
    gram_TT = gram_TT.double()
    alpha_T = torch.zeros_like(gram_TT[0])
    for task, order in enumerate(order_TT.tolist()):
        others = [other for other in order if other != task]
        alpha_T += _projected(gram_TT, task, others)
    return alpha_T


def _projected(gram_TT: torch.Tensor, task: int, others: list[int]) -> torch.Tensor:
    """The projected gradient of a task, as weights of all gradients."""
    weights_T = torch.zeros_like(gram_TT[0])
    weights_T[task] = 1

    for other in others:
        inner = gram_TT[other] @ weights_T
        square = gram_TT[other, other]
        # A gradient of 0 conflicts with none; rounding can say otherwise.
        if inner < 0 < square:
            weights_T[other] -= inner / square
    return weights_T


def random_orders(num_tasks: int, generator: torch.Generator) -> torch.Tensor:
    """An order of all tasks for each task, order_TT."""
    return torch.stack([torch.randperm(num_tasks, generator=generator) for _ in range(num_tasks)])


def graddrop(gradient_TBF: torch.Tensor, uniform_BF: torch.Tensor, leak_T: torch.Tensor) -> torch.Tensor:
    """Of each element's gradients only those of one sign: Chen et al., NeurIPS 2020, equation 1 and algorithm 1.

        P = ½ (1 + Σ_t g_t / Σ_t |g_t|)   where all are 0: ½
        shared gradient = Σ_t (leak_t + (1 - leak_t) · kept_t) g_t,   kept_t: g_t > 0 if P > u, g_t < 0 otherwise

    uniform_BF: u, drawn from [0, 1). leak_T: share of a task's gradient that always passes, 0 in the paper.
    A task without a label has a gradient of 0 and takes no part. gradient_BF: dtype of the gradients.

    The paper's algorithm 1 also has a form for gradients of separate rows: multiplied by the sign of the activation and
    summed over the batch before P, one draw for each feature. Here each element has its own P and u.
    Elsewhere: the CAGrad authors and LibMTL add 1e-8 or 1e-7 to Σ|g|, which drops small gradients of one sign at
    random; Lingvo, by the authors, multiplies the result by its length divided by that of the incoming gradient.
    """
    total_BF = gradient_TBF.sum(dim=0)
    size_BF = gradient_TBF.abs().sum(dim=0)
    balance_BF = torch.where(size_BF > 0, total_BF / size_BF, 0)
    keeps_positive_BF = (1 + balance_BF) / 2 > uniform_BF

    leak_T11 = leak_T.to(gradient_TBF)[:, None, None]
    is_kept_TBF = (gradient_TBF > 0) == keeps_positive_BF
    return (gradient_TBF * torch.where(is_kept_TBF, 1, leak_T11)).sum(dim=0)
